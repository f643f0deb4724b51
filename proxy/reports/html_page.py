"""A self-contained HTML page without scripts, for light and dark screens and for print."""

from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #667; --line: #d9dce1; --paper: #fff; --sent: #2f6fde;
  --saved: #8fd0b0; --loss: #c4412f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #9aa3ad; --line: #33383f; --paper: #15181c;
  --sent: #6ea0f5; --saved: #2f7d5b; --loss: #ff8a78; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 46rem;
  margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; margin: 0; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
p, figcaption { color: var(--soft); }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem 3rem; margin: 1.5rem 0; padding: 0; list-style: none; }
.figures b { display: block; font-size: 1.9rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.loss { color: var(--loss); } figure { margin: 0; } svg { width: 100%; height: auto; }
.sent { fill: var(--sent); } .saved { fill: var(--saved); } text { font-size: 11px; fill: var(--soft); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); font-weight: normal; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; padding-left: 0; }
th { color: var(--soft); }
"""
_CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render_document(title: str, body: str) -> str:
    """Return a page with this title (text) and body (HTML, with escaped values)."""
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><meta http-equiv="Content-Security-Policy" content="{_CONTENT_SECURITY_POLICY}">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
    )
    return f"{head}<body><main>{body}</main></body></html>\n"
