"""The look of the page: one sheet, light and dark, nothing loaded from elsewhere."""

STYLE = """
:root {
  color-scheme: light dark;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
  --paper: #fcfcfa; --card: #ffffff; --ink: #1d2126; --soft: #5d6670; --faint: #98a1ab;
  --hair: #e3e5e4; --stripe: #f4f5f3; --accent: #1f5fd6; --good: #16794a; --bad: #b3382c;
  --c0: #7b8591; --c1: #a8700f; --c2: #5b7a12; --c3: #8a5cc7; --c4: #1f5fd6; --c5: #0c8577; --c6: #c4417a;
  --p1: #3f7fd8; --p2: #8fb7ee; --p3: #27508f; --p4: #d2661a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1b1f23; --ink: #e7e9ea; --soft: #a3acb5; --faint: #6d7782;
    --hair: #2b3137; --stripe: #1d2226; --accent: #7fb0ff; --good: #5cc48f; --bad: #f08a7c;
    --c0: #8d98a3; --c1: #e2aa4b; --c2: #a8c56a; --c3: #bb98ee; --c4: #7fb0ff; --c5: #4cc9b6; --c6: #f088b4;
    --p1: #4a86dc; --p2: #86aee4; --p3: #2d5da6; --p4: #f0924a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 Inter, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-font-smoothing: antialiased;
}
main { max-width: 1120px; margin: 0 auto; padding: 52px 40px 80px; }
.eyebrow { color: var(--soft); font-size: 13px; letter-spacing: .02em; margin: 0 0 14px; }
.eyebrow b { color: var(--ink); font-weight: 600; }
h1 { font-size: 34px; line-height: 1.22; letter-spacing: -.018em; font-weight: 650; margin: 0;
  max-width: 30em; text-wrap: balance; }
h1 em { font-style: normal; color: var(--accent); }
h2 { font-size: 20px; letter-spacing: -.01em; font-weight: 640; margin: 0; }
section { margin-top: 60px; }
section > p { color: var(--soft); margin: 5px 0 20px; max-width: 48em; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); margin-top: 34px;
  border-top: 1px solid var(--hair); border-bottom: 1px solid var(--hair); }
.tile { padding: 18px 18px 17px; border-left: 1px solid var(--hair); }
.tile:first-child { border-left: 0; padding-left: 0; }
.tile .name { font-size: 12.5px; color: var(--soft); }
.tile .value { font-size: 28px; font-weight: 620; letter-spacing: -.02em;
  line-height: 1.25; margin-top: 3px; }
.tile .value small { font-size: 15px; font-weight: 500; color: var(--soft); letter-spacing: 0; }
.tile .more { font-size: 12.5px; color: var(--faint); }
.split { display: grid; grid-template-columns: minmax(0, 1.32fr) minmax(0, 1fr); gap: 36px;
  align-items: start; }
.three { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 20px; }
.scroll { overflow-x: auto; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
.scroll > svg { min-width: 860px; }
svg text { font-family: inherit; font-size: 12px; fill: var(--ink); }
svg .tick, svg .axis, svg .note { fill: var(--soft); }
svg .tick { font-size: 11.5px; }
svg .label { font-size: 13px; font-weight: 600; fill: currentColor; color: var(--ink); }
svg .panel { font-size: 14px; font-weight: 620; }
svg .mono { font-family: var(--mono); font-size: 11.5px; fill: var(--soft); }
svg .halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
svg .inside { fill: #fff; font-weight: 550; }
svg .grid { stroke: var(--hair); stroke-width: 1; }
svg .base { stroke: var(--faint); stroke-width: 1; }
svg .divider { stroke: var(--faint); stroke-width: 1; stroke-dasharray: 2 3; }
svg .arrow { stroke: var(--faint); stroke-width: 1.2; fill: none; }
svg .stripe { fill: var(--stripe); }
svg .whisker { stroke: currentColor; stroke-width: 2; opacity: .5; }
svg .dot { fill: currentColor; stroke: var(--paper); stroke-width: 1.5; }
svg .ring { fill: var(--paper); stroke: currentColor; stroke-width: 2; }
svg .faint { fill: currentColor; opacity: .3; }
svg .curve { fill: none; stroke: currentColor; stroke-width: 2.4; stroke-linejoin: round;
  stroke-linecap: round; }
svg .track { fill: none; stroke: currentColor; stroke-width: 2; opacity: .8; }
svg .bar { fill: currentColor; }
svg .cached { opacity: .38; }
.c0 { color: var(--c0) !important; } .c1 { color: var(--c1) !important; } .c2 { color: var(--c2) !important; }
.c3 { color: var(--c3) !important; } .c4 { color: var(--c4) !important; } .c5 { color: var(--c5) !important; }
.c6 { color: var(--c6) !important; }
.p1 { color: var(--p1); } .p2 { color: var(--p2); } .p3 { color: var(--p3); }
.p4 { color: var(--p4) !important; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: right; font-weight: 500; color: var(--soft); font-size: 12.5px; padding: 0 0 8px 14px; }
td { text-align: right; padding: 9px 0 9px 14px; border-top: 1px solid var(--hair); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th:first-child, td:first-child { padding-left: 10px; } th:last-child, td:last-child { padding-right: 10px; }
td small { display: block; color: var(--faint); font-size: 11.5px; line-height: 1.3; }
td .swatch { display: inline-block; width: 9px; height: 9px; border-radius: 5px; background: currentColor;
  margin-right: 8px; vertical-align: 1px; }
td b { font-weight: 620; }
.final td { background: color-mix(in srgb, var(--accent) 7%, transparent); }
.question { border-top: 1px solid var(--hair); padding: 22px 0 6px; }
.question h3 { font-size: 15px; font-weight: 600; margin: 0 0 2px; }
.question .reference { color: var(--soft); font-size: 13px; margin: 0 0 14px; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 14px;
  margin-bottom: 14px; }
.answer { background: var(--card); border: 1px solid var(--hair); border-radius: 8px;
  padding: 12px 14px 13px; }
.answer .who { display: flex; gap: 8px; align-items: baseline; font-size: 13px; margin-bottom: 7px; }
.answer .who b { font-weight: 620; }
.answer .who span { margin-left: auto; color: var(--faint); font-size: 12px; }
.answer pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; color: var(--ink);
  font: 12.5px/1.5 var(--mono); }
.correct { color: var(--good); } .wrong, .unjudged { color: var(--bad); }
details { margin-bottom: 16px; }
summary { cursor: pointer; color: var(--soft); font-size: 13px; margin-bottom: 10px; }
code, .code { font: 12.5px/1.6 var(--mono); }
.code { background: var(--stripe); border-radius: 8px; padding: 14px 16px; overflow-x: auto; margin: 0; }
footer { margin-top: 60px; padding-top: 18px; border-top: 1px solid var(--hair); color: var(--soft);
  font-size: 13px; }
footer dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: 0; }
footer dt { color: var(--faint); } footer dd { margin: 0; overflow-wrap: anywhere; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
@media (max-width: 860px) {
  main { padding: 30px 18px 60px; } h1 { font-size: 26px; }
  .split, .three { grid-template-columns: minmax(0, 1fr); }
  .tile { border-left: 0; padding-left: 0; }
}
"""
