"""The report as one self-contained HTML page and as Markdown. Pictures are inline SVG; nothing is loaded from anywhere.

P1. Every number stands in a table too: a picture only helps to see it.
P2. Colour is never the only sign; the page reads in print, on a phone, and in the dark.
"""

from __future__ import annotations

from html import escape

from sim.report import rto as report_rto
from sim.report.calibration import calibration_html, calibration_markdown
from sim.report.rows import PERCENTILES, Data, Phase, Row, seconds
from sim.scenario import coverage

FOLDERS = {
    "backup": "Backup strategies, and the loss of a machine", "operator": "What people do", "region": "The loss of a region",
    "corruption": "Damaged files", "archive": "The archive in trouble", "crash": "Crashes, one by one",
    "disk": "Disks that misbehave", "power": "Crashes drawn at random",
    "isolation": "What transactions see of each other",
}  # fmt: skip


def _titles(data: Data) -> dict[str, str]:
    return FOLDERS | {row.folder: row.folder for row in data.rows if row.folder not in FOLDERS}


_WHO = {"people": "people", "restore": "reading", "replay": "replay", "service": "service"}

CSS = """
:root{--ink:#1c2430;--soft:#5b6675;--faint:#8b95a3;--line:#dfe4ea;--paper:#fff;--wash:#f5f7f9;--accent:#1f5fa8;
--people:#c9a227;--restore:#5b8fc7;--replay:#1f5fa8;--service:#2e8b57;--bad:#b3261e;--good:#22764a}
@media(prefers-color-scheme:dark){:root{--ink:#e5e9ef;--soft:#a3adba;--faint:#7d8794;--line:#333c48;--paper:#151a21;--wash:#1c232c;
--accent:#7db1ee;--people:#d8b84a;--restore:#7fa9d6;--replay:#4a86cc;--service:#4fae7b;--bad:#ff8a80;--good:#6fcf97}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:2rem;line-height:1.15;margin:0 0 .4rem;letter-spacing:-.02em}
h2{font-size:1.25rem;margin:3rem 0 .3rem;letter-spacing:-.01em}
p{max-width:44rem;margin:.4rem 0 1rem;color:var(--soft)}
a{color:var(--accent)}
.lead{font-size:1.1rem;color:var(--ink);max-width:46rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.75rem;margin:1.5rem 0 0}
.tile{background:var(--wash);border-radius:10px;padding:.8rem 1rem}
.tile b{display:block;font-size:1.5rem;line-height:1.2;font-variant-numeric:tabular-nums;letter-spacing:-.02em}
.tile span{color:var(--soft);font-size:.85rem}
.good{color:var(--good)}.bad{color:var(--bad)}
table{border-collapse:collapse;width:100%;font-size:.9rem;margin:.6rem 0 0}
th{font-weight:600;text-align:left;color:var(--soft);font-size:.78rem;
padding:.35rem .6rem .35rem 0;border-bottom:1px solid var(--line)}
td{padding:.55rem .6rem .55rem 0;border-bottom:1px solid var(--line);vertical-align:top}
table.rows{table-layout:fixed}tr.over th{border:0;padding-bottom:0;color:var(--faint)}
td:last-child,th:last-child{padding:.55rem 0}
th:last-child{padding:.35rem 0 .35rem .9rem}table.rows td:last-child{padding-left:.9rem}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.name{font-weight:600;overflow-wrap:anywhere}.about{color:var(--soft);font-size:.85rem;max-width:24rem}
.of{color:var(--faint);font-size:.8rem;white-space:nowrap}
svg{display:block;max-width:100%;height:auto}
svg text{fill:var(--soft);font:11px system-ui,sans-serif}
svg .strong{fill:var(--ink);font-weight:600}
.dot{fill:var(--accent);fill-opacity:.35}.axis{stroke:var(--line)}.limit{stroke:var(--bad);stroke-width:1.5}
.want{stroke:var(--bad);stroke-dasharray:2 2}
.people{fill:var(--people)}.restore{fill:var(--restore)}.replay{fill:var(--replay)}.service{fill:var(--service)}
details{margin:.25rem 0 0}summary{cursor:pointer;color:var(--accent);font-size:.82rem}
code{font:12px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
background:var(--wash);padding:.1rem .3rem;border-radius:4px;
overflow-wrap:anywhere}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;font-size:.82rem;color:var(--soft);margin:.5rem 0}
.legend i{display:inline-block;width:.75rem;height:.75rem;border-radius:3px;margin-right:.35rem;vertical-align:-1px}
.matrix{overflow-x:auto}.matrix td,.matrix th{white-space:nowrap;padding:.3rem .45rem}
.struck table{font-size:.78rem}.struck th{font-size:.72rem;vertical-align:bottom}.struck td:last-child{padding:.25rem .3rem}
.struck td,.struck th{padding:.25rem .3rem}.bugs td:first-child{white-space:normal}.bugs table{font-size:.82rem}
.matrix td.c{text-align:right;font-variant-numeric:tabular-nums;
background:color-mix(in srgb,var(--accent) calc(var(--h)*1%),transparent)}
.worst{padding:.3rem 0 .8rem;break-inside:avoid}svg.bar{width:100%;height:1.2rem;margin:.25rem 0 .2rem}
.steps{font-size:.82rem;color:var(--soft)}.step{overflow-wrap:anywhere}.steps b{color:var(--ink);font-weight:600}
i.key{display:inline-block;width:.6rem;height:.6rem;border-radius:2px;margin-right:.25rem}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:0 2.5rem}
nav{font-size:.88rem;margin:1.2rem 0 .2rem;line-height:1.9}.note{font-size:.85rem}
.unreached{border-left:4px solid var(--bad);background:var(--wash);padding:.7rem 1rem;margin:1.4rem 0;border-radius:0 8px 8px 0;
font-size:.92rem}.unreached ul{margin:.4rem 0 0;padding-left:1.1rem;columns:2;column-gap:2rem}.unreached li{break-inside:avoid}
tr.rpo td{border-bottom:0;padding-bottom:.1rem}tr.rpo td.wide{border-bottom:1px solid var(--line)}
td.what{color:var(--faint);font-size:.78rem;padding-top:.65rem}.rows code{display:inline-block;margin-top:.2rem;font-size:11px}
.rows tbody{break-inside:avoid}td.n div{font-size:.78rem}
@media(max-width:720px){
main{padding:1.5rem 1rem 3rem}svg text{display:none}h1{font-size:1.6rem}
table.rows,table.rows tbody{display:block}table.rows td.n{white-space:normal}.unreached ul{columns:1}
table.rows tbody{border-bottom:1px solid var(--line);padding:.7rem 0}td.what{grid-row:1;padding-top:1rem!important}
table.rows thead,table.rows colgroup{display:none}table.rows tr{display:grid;
grid-template-columns:2.1rem 1.6fr repeat(4,minmax(0,1fr));gap:.1rem .5rem;padding:.1rem 0}
table.rows td:empty{display:none}table.rows td.pic{grid-column:1/-1}tr.rpo td.wide{border:0}tr.rpo td.what{grid-row:2}
.matrix table{font-size:.74rem}
table.rows td,table.rows td:last-child{border:0;padding:.1rem 0;text-align:left}table.rows td.wide{grid-column:1/-1}
table.rows td[data-l]::before{content:attr(data-l) " ";color:var(--faint);font-size:.78rem;display:block}
}
@media print{:root{--wash:#f3f4f6}main{max-width:none;padding:0}details,nav{display:none}h2{break-after:avoid}
tr{break-inside:avoid}
body{font-size:11px}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}.matrix{overflow:visible}}
"""


def page(data: Data) -> str:
    """The HTML page."""
    ok = data.violations == 0
    sim_s = sum(row.sim_s for row in data.rows)
    cpu_s = sum(row.cpu_s for row in data.rows) or 1.0
    events = sum(row.events for row in data.rows)
    unreached = [row for row in data.rows if row.unreached]
    verdict = "every promise held" if ok else f"{data.violations} promises broken"
    who = "scenario does" if len(unreached) == 1 else "scenarios do"
    wanting = f", but <b class=bad>{len(unreached)} {who} not yet reach what the specification wants</b>" if unreached else ""
    tiles = [
        (str(len(data.rows)), "scenarios"), (f"{data.runs:,}", f"runs, seeds {data.seeds}"),
        (f"{data.violations}", "promises broken"),
        (seconds(sim_s), "simulated"), (f"{sim_s / cpu_s:,.0f} ×", "faster than real time"),
        (f"{events / cpu_s:,.0f}", "engine events a second and core"),
    ]  # fmt: skip
    if unreached:
        tiles.insert(3, (str(len(unreached)), "wanted by the specification, not reached"))
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>ThunderDB: what was promised, what was measured</title><style>{CSS}</style><main>",
        "<h1>What ThunderDB promises, and what it kept</h1>",
        f"<p class=lead>{len(data.rows)} ways to lose service or data, each played {_plays(data)} in a simulated world that "
        f"breaks on purpose: <b class={'good' if ok else 'bad'}>{verdict}</b>{wanting}. RTO runs from the fault to the first "
        "acknowledged write, people’s time included; RPO is what had been acknowledged and is gone.</p>",
        "<div class=tiles>" + "".join(f"<div class=tile><b>{b}</b><span>{s}</span></div>" for b, s in tiles) + "</div>",
        _unreached(unreached),
        _contents(data),
        f"<p class=note>Each dot is a run, placed by the share of its promise that it used; the red line is the promise, a "
        f"dashed one what is wanted. A percentile is a run that happened (nearest rank): {_percentile_note(data)}. Where "
        "100 GB are played, 4.2 MB stand for them: bandwidths are divided, and CPU costs, measured on a real machine, "
        "multiplied by as much. An object store is charged all the requests that 100 GB take, each with its latency and "
        "the speed of one stream, so many at a time as the engine has under way; a disk’s latencies are not multiplied, "
        "for it is read and written front to back.</p>",
    ]
    for folder, title in _titles(data).items():
        rows = [row for row in data.rows if row.folder == folder]
        if rows:
            parts.append(f"<h2 id={folder}>{title}</h2>{_table(rows)}")
    parts.append(_worst(data))
    if data.real is not None:
        parts.append(report_rto.html(data.real))
    parts += [calibration_html(), _coverage(data), _mutants(data), _facts(data), "</main></html>"]
    return "\n".join(parts)


def _plays(data: Data) -> str:
    counts = sorted({row.runs for row in data.rows})
    return f"{counts[0]} times" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} times"


def _percentile_note(data: Data) -> str:
    most = max((row.runs for row in data.rows), default=0)
    return "of fewer than 100 runs p99 is the worst" if most < 100 else f"up to {most} runs a scenario"


def _contents(data: Data) -> str:
    links = [(folder, title) for folder, title in _titles(data).items() if any(row.folder == folder for row in data.rows)]
    links += [("worst", "The worst runs")] + ([("real", "Real daemons")] if data.real is not None else [])
    links += [("costs", "Calibration"), ("struck", "Faults that fired"), ("bugs", "Planted bugs"), ("this", "This report")]
    return "<nav>" + " · ".join(f"<a href='#{name}'>{title}</a>" for name, title in links) + "</nav>"


def _unreached(rows: list[Row]) -> str:
    """What is wanted and not reached, said first."""
    if not rows:
        return ""
    items = "".join(
        f"<li><b>{escape(row.name)}</b>: wanted ≤ {seconds(row.wanted_rto_s)}, worst measured {seconds(row.rto(100))}; "
        f"the engine promises ≤ {seconds(row.rto_promise_s)}</li>"
        for row in rows
    )
    return (
        f"<div class=unreached><b>Not reached yet.</b> For {len(rows)} of these the specification wants a shorter RTO at "
        "100 GB "
        f"than the engine keeps; what is promised below is what it does keep.<ul>{items}</ul></div>"
    )


def _table(rows: list[Row]) -> str:
    head = (
        "<colgroup><col><col style='width:3rem'><col style='width:6.4rem'>" + "<col style='width:4.7rem'>" * 4
        + "<col style='width:4.7rem'><col style='width:10.2rem'></colgroup><thead><tr><th>scenario<th><th class=n>promised<th "
        "class=n>p50<th class=n>p95<th class=n>p99<th class=n>worst<th class=n>of it people<th>each run</tr></thead>"
    )  # fmt: skip
    return f"<table class=rows>{head}{''.join(f'<tbody>{_lines(row)}</tbody>' for row in rows)}</table>"


def _lines(row: Row) -> str:
    bad = " <span class=bad>✗ broken</span>" if row.violations else ""
    broken = "".join(f"<div class=bad>{escape(text)}</div>" for text in row.violations[:3])
    first = (
        f"<td class=wide rowspan=2><span class=name>{escape(row.name)}</span>{bad}<div class=about>{escape(row.about)}</div>"
        f"{broken}<code>{escape(row.command)}</code></td>"
    )
    if row.must_refuse:
        first = first.replace(" rowspan=2", "")
        said = f"refused by name, {row.refused} of {row.runs} runs"
        return f"<tr>{first}<td class='wide' colspan=8>must refuse: <b class=good>{said}</b></td></tr>"
    rpo = [("promised", row.rpo_promise)]
    rpo += [(_name(percent), row.rpo_text(percent)) for percent in PERCENTILES]
    shade = "bad" if row.unreached else "good"
    wanted = f"<div class={shade}>wanted ≤ {seconds(row.wanted_rto_s)}</div>" if row.wanted_rto_s else ""
    rto = [(_name(percent), seconds(row.rto(percent))) for percent in PERCENTILES]
    rto.append(("of it people", seconds(row.operator_s)))
    given = row.rpo_promise.removeprefix("≤ ")
    losses = "" if row.counted or given == row.rpo_promise else dots(row.rpo_s, row.rpo_promise_s, "RPO")
    return (
        f"<tr class=rpo>{first}<td class=what>RPO</td>{_cells(rpo)}<td></td><td class=pic>{losses}</td></tr>"
        f"<tr><td class=what>RTO</td><td class=n data-l='promised'>≤ {seconds(row.rto_promise_s)}{wanted}</td>{_cells(rto)}"
        f"<td class=pic>{dots(row.rto_s, row.rto_promise_s, 'RTO', row.wanted_rto_s)}<span class=of>{row.runs} "
        f"{'run' if row.runs == 1 else 'runs'}"
        "</span></td></tr>"
    )


def _name(percent: int) -> str:
    return "worst" if percent == 100 else f"p{percent}"


def _cells(cells: list[tuple[str, str]]) -> str:
    return "".join(f"<td class=n data-l='{label}'>{escape(text)}</td>" for label, text in cells)


def dots(values: list[float], limit: float, what: str, wanted: float = 0.0) -> str:
    """Dots on a line: the share of the promise that each run used. Those at one place are drawn above each other."""
    limit = limit or 1.0
    marks = "".join(
        f"<circle class=dot cx='{4 + min(1.08, value / limit) * 128:.1f}' cy={11 + (index * 7 % 5 - 2) * 2} r=3.5 />"
        for index, value in enumerate(values)
    )
    want = 4 + wanted / limit * 128
    line = f"<line class=want x1={want:.1f} x2={want:.1f} y1=3 y2=19 />" if 0 < wanted < limit else ""
    label = f"{what} of {len(values)} runs, from {seconds(min(values, default=0))} to {seconds(max(values, default=0))}"
    return (
        f"<svg width=146 height=22 viewBox='0 0 146 22' role=img aria-label='{label}'><title>{label}</title>"
        f"<line class=axis x1=4 x2=142 y1=11 y2=11 />{line}{marks}<line class=limit x1=132 x2=132 y1=1 y2=21 /></svg>"
    )


def _worst(data: Data) -> str:
    legend = "".join(f"<span><i style='background:var(--{who})'></i>{word}</span>" for who, word in _WHO.items())
    shown = [row for row in data.rows if len(row.worst) > 1]
    bars = "".join(
        f"<div class=worst><span class=name>{escape(row.name)}</span> <span class=of>seed {row.worst_seed}, "
        f"{seconds(row.worst[-1].to_s)} of {seconds(row.rto_promise_s)}</span>{bar(row.worst)}</div>"
        for row in sorted(shown, key=lambda row: -row.worst[-1].to_s)
    )
    return (
        "<h2 id=worst>The worst runs, step by step</h2><p>From the fault to the first write, in the run with the longest "
        "RTO: how "
        "long it took until somebody noticed and acted, to read backup and log, to lay them down and replay, to serve. "
        "Each bar "
        f"is as long as its own RTO.</p><div class=legend>{legend}</div>{bars}"
    )


def bar(phases: tuple[Phase, ...], width: int = 1000) -> str:
    """A recovery as one bar, its stretches side by side, and in words: letters in a picture are too small on a phone."""
    total = phases[-1].to_s or 1.0
    parts: list[str] = []
    for phase in phases:
        x, w = phase.from_s / total * width, (phase.to_s - phase.from_s) / total * width
        title = f"{phase.what}: {seconds(phase.to_s - phase.from_s)}"
        place = f"x='{x:.1f}' y=0 width='{max(1.0, w - 2):.1f}' height=22"
        parts.append(f"<rect class={phase.who} {place}><title>{escape(title)}</title></rect>")
    said = "; ".join(f"{phase.what} {seconds(phase.to_s - phase.from_s)}" for phase in phases)
    words = " · ".join(
        f"<span class=step><i class=key style='background:var(--{phase.who})'></i>{escape(phase.what)} "
        f"<b>{seconds(phase.to_s - phase.from_s)}</b></span>"
        for phase in phases
    )
    return (
        f"<svg class=bar viewBox='0 0 {width} 22' preserveAspectRatio=none role=img aria-label='fault; {escape(said)}'>"
        f"{''.join(parts)}</svg><div class=steps>fault · {words}</div>"
    )


def _coverage(data: Data) -> str:
    rows = coverage.table(data.coverage)
    kinds = sorted({kind for _, kind, _, _ in rows})
    phase_words: dict[tuple[str, str], list[str]] = {}
    counts: dict[tuple[str, str], int] = {}
    for fault, kind, phase, count in rows:
        phase_words.setdefault((fault, kind), []).append(f"{phase} {count}")
        counts[fault, kind] = counts.get((fault, kind), 0) + count
    body = ""
    for fault in sorted({fault for fault, _, _, _ in rows}):
        cells = ""
        for kind in kinds:
            count = counts.get((fault, kind), 0)
            heat = min(60, 8 + 9 * len(str(count))) if count else 0
            title = escape(", ".join(phase_words.get((fault, kind), [])))
            cells += f"<td class=c style='--h:{heat}' title='{title}'>{count or ''}</td>"
        body += f"<tr><td>{escape(fault)}</td>{cells}</tr>"
    head = "".join(f"<th class=n>{escape(kind).replace('_', '<br>').replace(' ', '<br>')}" for kind in kinds)
    listed = "".join(
        f"<tr><td>{escape(fault)}<td>{escape(kind)}<td>{escape(', '.join(words))}</tr>"
        for (fault, kind), words in phase_words.items()
    )
    missing = [f"{row.name}: {', '.join(row.missing)}" for row in data.rows if row.missing]
    said = f"<p class=bad>Enabled but never fired: {escape('; '.join(missing))}</p>" if missing else ""
    return (
        "<h2 id=struck>What struck what, and when</h2><p>Faults that fired in these runs, by the kind of file they hit, "
        "and the engine's "
        f"phase at that moment. A sweep fails if a fault that a scenario enables never fires.</p>{said}"
        f"<div class='matrix struck'><table><thead><tr><th>fault{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<details><summary>by phase</summary><div class=matrix><table><tbody>{listed}</tbody></table></div></details>"
    )


def _mutants(data: Data) -> str:
    body = "".join(
        f"<tr><td>{escape(bug)}</td><td>{escape(run)}</td><td>{escape(breaks)}</td><td class=n>{escape(seeds)}</td>"
        f"<td class=n>{escape(cpu)}</td></tr>"
        for bug, run, breaks, seeds, cpu in data.mutants
    )
    return (
        "<h2 id=bugs>Planted bugs</h2><p>Each is a small diff that breaks one invariant, applied to a copy of the source; "
        "seeds "
        f"run until one fails. <b>{escape(data.mutants_summary)}</b></p><div class='matrix bugs'><table><thead><tr>"
        "<th>bug<th>seen by<th>breaks the promise of"
        f"<th class=n>seeds<th class=n>CPU s</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _facts(data: Data) -> str:
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in data.facts.items())
    return f"<h2 id=this>This report</h2><table><tbody>{body}</tbody></table>"


# -- Markdown


def markdown(data: Data) -> str:
    """The same as text."""
    verdict = "Every promise held." if not data.violations else f"{data.violations} promises were broken."
    lines = [
        "# What ThunderDB promises, and what it kept",
        "",
        f"{len(data.rows)} scenarios, {data.runs:,} runs (seeds {data.seeds}). {verdict}",
        "RTO runs from the fault to the first acknowledged write, people's time included; RPO is what had been acknowledged",
        "and is gone. Percentiles are over the runs of a scenario (nearest rank).",
        "",
    ]
    lines += [
        f"- Not reached: {row.name}, wanted ≤ {seconds(row.wanted_rto_s)}, worst measured {seconds(row.rto(100))}"
        for row in data.rows
        if row.unreached
    ]
    lines.append("")
    for folder, title in _titles(data).items():
        rows = [row for row in data.rows if row.folder == folder]
        if not rows:
            continue
        lines += [
            f"## {title}", "", "| scenario | | promised | p50 | p95 | p99 | worst | of it people | runs |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|",
        ]  # fmt: skip
        for row in rows:
            link = f"{row.name}: {row.about}"
            if row.must_refuse:
                lines.append(f"| {link} | | must refuse | refused {row.refused} of {row.runs} | | | | | {row.runs} |")
                continue
            lost = " | ".join(row.rpo_text(percent) for percent in PERCENTILES)
            took = " | ".join(seconds(row.rto(percent)) for percent in PERCENTILES)
            wanted = f" (wanted ≤ {seconds(row.wanted_rto_s)})" if row.wanted_rto_s else ""
            lines.append(f"| {link} | RPO | {row.rpo_promise} | {lost} | | {row.runs} |")
            people, promised = seconds(row.operator_s), seconds(row.rto_promise_s)
            lines.append(f"| | RTO | ≤ {promised}{wanted} | {took} | {people} | {row.runs} |")
        lines.append("")
    lines += ["## Broken promises", ""] if data.violations else []
    for row in data.rows:
        lines += [f"- {row.name}, {text}" for text in row.violations[:5]]
    if data.real is not None:
        lines += ["", "## Real daemons on a real disk, and the simulator beside them", "", report_rto.markdown(data.real)]
    lines += ["", *calibration_markdown()]
    lines += ["", "## Faults that fired", "", "| fault | file kind | during |", "|---|---|---|"]
    found: dict[tuple[str, str], list[str]] = {}
    for fault, kind, phase, count in coverage.table(data.coverage):
        found.setdefault((fault, kind), []).append(f"{phase} {count}")
    lines += [f"| {fault} | {kind} | {', '.join(words)} |" for (fault, kind), words in found.items()]
    lines += ["", "## Planted bugs", "", f"{data.mutants_summary} (tests/mutants/RESULTS.md has the table.)", ""]
    lines += ["## To reproduce", "", "Each row's worst run:", ""]
    lines += [f"    {row.command}" for row in data.rows if row.runs]
    lines += ["", "## This report", "", *(f"- {name}: {text}" for name, text in data.facts.items()), ""]
    return "\n".join(lines)
