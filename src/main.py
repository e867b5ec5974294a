"""What `uvicorn src.main:app` serves. It works from a checkout that was not installed: `src/` joins the search path."""

from __future__ import annotations

import sys
from pathlib import Path

_sources = str(Path(__file__).resolve().parent)
if _sources not in sys.path:
    sys.path.insert(0, _sources)

from sekali.http.app import create_app

app = create_app()
