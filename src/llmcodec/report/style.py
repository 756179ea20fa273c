"""Frame and style of the report page: system fonts, light and dark colours, tables that scroll on a phone."""

from __future__ import annotations

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{title}</title><style>{style}</style></head>
<body><main>
{body}
</main></body></html>
"""

STYLE = """
:root{--page:#fbfaf8;--card:#fff;--ink:#1c1b1a;--soft:#67635d;--line:#e4e0d9;
--good:#0b7a52;--bad:#b3341d;--warn:#946200}
@media(prefers-color-scheme:dark){:root{--page:#141414;--card:#1d1d1d;--ink:#ecebe8;--soft:#a19d96;--line:#33312e;
--good:#4cc38a;--bad:#ff8b73;--warn:#e5b34d}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:64rem;margin:0 auto;padding:clamp(1rem,4vw,3rem) clamp(1rem,4vw,2rem)}
h1{font-size:clamp(1.6rem,5vw,2.4rem);line-height:1.15;letter-spacing:-.02em;margin:0 0 .5rem;text-wrap:balance}
h2{font-size:1.2rem;letter-spacing:-.01em;margin:0 0 .9rem}h3{font-size:1rem;margin:0 0 .3rem}
section{margin-top:2.6rem}.lead{font-size:1.08rem;color:var(--soft);max-width:44rem;margin:0}
.note,small,.unit,.axis{color:var(--soft);font-size:.8rem}.note{margin:.6rem 0 0}
.hidden{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
.verdict{list-style:none;margin:0;padding:0;border:1px solid var(--line);border-radius:.6rem;overflow:hidden}
.verdict li{display:grid;grid-template-columns:5rem 1fr;gap:.8rem;align-items:baseline;background:var(--card);
border-top:1px solid var(--line);padding:.6rem .9rem}.verdict li:first-child{border-top:0}
.mark{font-size:.78rem;font-weight:600;color:var(--soft)}
li.better .mark,.tag.better{color:var(--good)}
li.worse .mark,.tag.worse{color:var(--bad)}
li.warning .mark{color:var(--warn)}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:.6rem;background:var(--card)}
table{border-collapse:separate;border-spacing:0;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.55rem .9rem;text-align:right;vertical-align:top;border-top:1px solid var(--line);white-space:nowrap}
thead th{border-top:0;font-weight:600}
th:first-child{text-align:left;position:sticky;left:0;background:var(--card);white-space:normal;
min-width:9.5rem;font-weight:500}
td small,th small{display:block;font-weight:400;line-height:1.35}abbr{text-decoration:none;color:var(--soft)}
.tag{font-weight:600}
article{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem;margin-top:1rem}
.quote{margin:0 0 .8rem;color:var(--soft)}
.tracks{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,13rem),1fr));gap:1rem}
figure{margin:0;min-width:0}figcaption{font-weight:600;font-size:.9rem;margin-bottom:.35rem}
img{display:block;width:100%;height:7.5rem;border-radius:.35rem;image-rendering:auto}
.axis{display:flex;justify-content:space-between;margin:.15rem 0 .4rem}
audio{width:100%;height:2.4rem;display:block}
.curves{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1rem}
.curve{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem}
svg{display:block;width:100%;height:auto}svg text{font-family:inherit!important}
pre{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.9rem;
font-size:.85rem;margin:0}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,13rem),1fr));gap:.5rem 1.2rem;margin:1rem 0 0}
dl div{border-top:1px solid var(--line);padding-top:.35rem}dt{color:var(--soft);font-size:.8rem}
dd{margin:0;overflow-wrap:anywhere}dl+h3{margin-top:1.6rem}
@media(max-width:34rem){th,td{padding:.5rem .6rem;font-size:.9rem}th:first-child{min-width:7.5rem;max-width:9rem}
th:first-child small{display:none}.verdict li{grid-template-columns:1fr;gap:.1rem}}
@media print{.scroll{overflow:visible}audio{display:none}}
"""
