"""Style sheet and script of the report, inlined into the page."""

CSS = """
:root{color-scheme:light dark;--bg:#f6f6f3;--card:#fff;--ink:#1c1e21;--soft:#5d6470;--faint:#8b93a0;--line:#e2e3df;
--accent:#2b5fd9;--good:#16803c;--near:#a56a00;--bad:#c22f2f;--bar0:#2b5fd9;--bar1:#5b8def;--bar2:#b36b1e;
--dot-l:.58;--dot-c:.15;--empty:#f0f0ed}
@media(prefers-color-scheme:dark){:root{--bg:#131518;--card:#1b1e23;--ink:#e8eaed;--soft:#a7aeb9;--faint:#7d8592;
--line:#2e333b;--accent:#7ba4ff;--good:#4cc27a;--near:#e3a83c;--bad:#ff7b72;--bar0:#7ba4ff;--bar1:#4c74cf;--bar2:#dc9a4d;
--dot-l:.72;--dot-c:.14;--empty:#22262c}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:52px;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main,header>div{max-width:1120px;margin:0 auto;padding:0 20px}
header>div{padding-top:28px;padding-bottom:18px}
h1{font-size:25px;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:18px;margin:0 0 4px}h3{font-size:14px;margin:22px 0 6px}
p{margin:0 0 10px;max-width:76ch}.soft{color:var(--soft)}.small{font-size:13px}
nav{position:sticky;top:0;z-index:2;background:var(--bg);border-bottom:1px solid var(--line);overflow-x:auto}
nav div{max-width:1120px;margin:0 auto;padding:0 12px;display:flex}
nav a{padding:11px 9px;color:var(--soft);text-decoration:none;white-space:nowrap;font-size:14px}
nav a:hover{color:var(--accent)}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:20px;margin:18px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:10px;margin-top:16px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 14px}
.tile b{display:block;font-size:24px;line-height:1.25;font-weight:650;font-variant-numeric:tabular-nums}
.tile span{font-size:13px;color:var(--soft)}
.wide{overflow-x:auto;margin:0 -4px;padding:0 4px}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:5px 14px 5px 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:middle}
th{white-space:nowrap;font-weight:600;color:var(--soft);font-size:13px}td.n,th.n{text-align:right}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{background:var(--empty);border-radius:8px;padding:14px;overflow-x:auto;margin:6px 0 0}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(290px,1fr));gap:14px 22px;margin-top:12px}
figure{margin:0}figcaption{display:flex;justify-content:space-between;gap:10px;font-size:13px}
figcaption output{color:var(--soft);font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:auto;overflow:visible}
.tick{font-size:10.5px;fill:var(--faint)}.end{text-anchor:end}.mid{text-anchor:middle}
.label{font-size:12px;fill:var(--soft);paint-order:stroke;stroke:var(--card);stroke-width:5px}
.name{font-size:19px;font-weight:600;fill:var(--ink);paint-order:stroke;stroke:var(--card);stroke-width:5px}
.strong{fill:var(--ink);font-weight:600}
.grid,.axis{stroke:var(--line)}.curve{fill:none;stroke:var(--accent);stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.cursor{fill:var(--accent);stroke:var(--card);stroke-width:2}.plot{touch-action:pan-y}
.s0{fill:var(--bar0)}.s1{fill:var(--bar1)}.s2{fill:var(--bar2)}
svg .ring{fill:none;stroke:var(--faint);stroke-dasharray:3 4;stroke-width:1}
.hit{fill:var(--good)}.miss{fill:var(--bad)}.none{fill:var(--empty)}
.split{display:grid;grid-template-columns:minmax(0,1fr) 300px;gap:22px;align-items:start}
.disk .rim{fill:none;stroke:var(--faint);stroke-width:1.5}.disk .tick{font-size:15px}
.arc{fill:none;stroke:var(--faint);stroke-width:1.2;opacity:.55}
.proxy{fill:none;stroke:var(--soft);stroke-width:1;opacity:.55}.node{fill:var(--ink);stroke:var(--card);stroke-width:2}
.dot{fill:oklch(var(--dot-l) var(--dot-c) var(--h));stroke:var(--card);stroke-width:.8;cursor:pointer}
.picked .dot:not(.on){opacity:.1}.dot.here{stroke:var(--ink);stroke-width:3}
.legend{max-height:640px;overflow-y:auto;font-size:13px}
.legend h4{margin:8px 0 2px;font-size:12px;color:var(--soft);font-weight:600}
.legend button{display:inline-flex;align-items:center;gap:5px;border:1px solid transparent;background:none;
color:inherit;font:inherit;padding:3px 7px 3px 4px;border-radius:99px;cursor:pointer}
.legend button:hover{background:var(--empty)}.legend button[aria-pressed=true]{border-color:var(--ink)}
.legend i{width:11px;height:11px;border-radius:50%;background:oklch(var(--dot-l) var(--dot-c) var(--h))}
.look{display:flex;gap:12px;align-items:center;min-height:92px;padding:10px;border:1px solid var(--line);
border-radius:8px;margin-bottom:10px;font-size:13px}.look img{width:72px;height:72px;flex:none}
img{border-radius:6px;display:block;background:var(--empty)}
.query{display:grid;grid-template-columns:150px minmax(0,1fr);gap:18px;padding:16px 0;border-top:1px solid var(--line)}
.query>div:first-child img{width:112px;height:112px}.path{font-size:12px;line-height:1.35;overflow-wrap:anywhere}
.path .same{color:var(--faint)}.path b{font-weight:600}
.strip{display:grid;grid-template-columns:repeat(8,minmax(0,1fr));gap:10px}
.hitbox{position:relative}.hitbox img,.gone{width:100%;aspect-ratio:1;height:auto}
.gone{display:grid;place-items:center;background:var(--empty);color:var(--faint);border-radius:6px;font-size:11px}
.mark{display:flex;gap:5px;font-size:12px;font-weight:650;margin:4px 0 1px;font-variant-numeric:tabular-nums}
.right img{outline:3px solid var(--good);outline-offset:-3px}
.close img{outline:3px solid var(--near);outline-offset:-3px}
.wrong img{outline:3px solid var(--bad);outline-offset:-3px}
.right .mark{color:var(--good)}.close .mark{color:var(--near)}.wrong .mark{color:var(--bad)}
.mark span{color:var(--soft);font-weight:400}
.pair{display:flex;align-items:center;gap:6px}.pair img{width:48px;height:48px}
.note{border-left:3px solid var(--near);padding-left:12px}
@media(max-width:800px){.split{grid-template-columns:minmax(0,1fr)}.legend{max-height:260px}.strip{grid-template-columns:repeat(4,minmax(0,1fr))}
main,header>div{padding-left:12px;padding-right:12px}section{padding:14px}
th,td{padding-right:9px}td code{font-size:12px}td{overflow-wrap:anywhere}td.n{white-space:nowrap}
.query{grid-template-columns:minmax(0,1fr)}.query>div:first-child{display:flex;gap:12px}
.query>div:first-child img{width:84px;height:84px;flex:none}.optional{display:none}
.disk .name{font-size:36px}.pair img{width:38px;height:38px}}
@media print{nav{display:none}section{break-inside:avoid-page}}
"""

SCRIPT = """
for (const svg of document.querySelectorAll('.plot')) {
  const marks = svg.dataset.marks.split(' ').filter(Boolean).map(m => m.split(','));
  const dot = svg.querySelector('.cursor'), out = svg.closest('figure').querySelector('output');
  const move = event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const near = marks.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
    dot.setAttribute('cx', near[0]); dot.setAttribute('cy', near[1]); dot.setAttribute('visibility', 'visible');
    out.textContent = 'step ' + near[2] + ': ' + near[3];
  };
  const rest = () => { dot.setAttribute('visibility', 'hidden'); out.textContent = out.dataset.rest; };
  if (marks.length) {
    svg.addEventListener('pointermove', move); svg.addEventListener('pointerdown', move);
    svg.addEventListener('pointerleave', rest);
  }
}
const disks = document.querySelectorAll('.disk'), look = document.querySelector('.look');
if (disks.length) {
  const shown = JSON.parse(document.getElementById('disk-data').textContent);
  const each = (selector, change) => disks.forEach(disk => disk.querySelectorAll(selector).forEach(change));
  const show = event => {
    if (!event.target.matches('.dot')) return;
    const row = event.target.dataset.row, [image, path, radius] = shown[row];
    each('.here', dot => dot.classList.remove('here'));
    each('.dot[data-row="' + row + '"]', dot => dot.classList.add('here'));
    look.replaceChildren();
    if (image) { const img = new Image(); img.src = image; img.alt = ''; look.append(img); }
    const text = document.createElement('div');
    text.append(path, document.createElement('br'), 'radius ' + radius);
    look.append(text);
  };
  for (const disk of disks) { disk.addEventListener('pointerover', show); disk.addEventListener('click', show); }
  const buttons = document.querySelectorAll('.legend button');
  for (const button of buttons) button.addEventListener('click', () => {
    const on = button.getAttribute('aria-pressed') !== 'true';
    for (const other of buttons) other.setAttribute('aria-pressed', 'false');
    each('.on', dot => dot.classList.remove('on'));
    button.setAttribute('aria-pressed', on);
    for (const disk of disks) disk.classList.toggle('picked', on);
    if (on) each('.k' + button.dataset.group, dot => dot.classList.add('on'));
  });
}
"""
