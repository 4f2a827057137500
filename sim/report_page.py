"""The report as one self-contained HTML page and as Markdown. Pictures are inline SVG; nothing is loaded from anywhere.

P1. Every number stands in a table too: a picture only helps to see it.
P2. Colour is never the only sign; the page reads in print, on a phone, and in the dark.
"""

from __future__ import annotations

from html import escape

from sim import coverage
from sim.report_rows import Data, Phase, Row, seconds

FOLDERS = {
    "backup": "Backup strategies, and the loss of a machine", "operator": "What people do", "region": "The loss of a region",
    "corruption": "Damaged files", "archive": "The archive in trouble", "crash": "Crashes, one by one",
    "disk": "Disks that misbehave", "power": "Crashes drawn at random",
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
.worst{padding:.3rem 0 1rem}
@media(max-width:720px){
main{padding:1.5rem 1rem 3rem}h1{font-size:1.6rem}
table.rows,table.rows tbody{display:block}table.rows td.n{white-space:normal}
table.rows thead,table.rows colgroup{display:none}table.rows tr{display:grid;
grid-template-columns:repeat(4,minmax(0,1fr));gap:.1rem .8rem;padding:.8rem 0;
border-bottom:1px solid var(--line)}
table.rows td,table.rows td:last-child{border:0;padding:.1rem 0;text-align:left}table.rows td.wide{grid-column:1/-1}
table.rows td[data-l]::before{content:attr(data-l) " ";color:var(--faint);font-size:.78rem;display:block}
}
@media print{:root{--wash:#f3f4f6}main{max-width:none;padding:0}details{display:none}h2{break-after:avoid}tr{break-inside:avoid}
body{font-size:11px}svg text{font-size:10px}}
"""


def page(data: Data) -> str:
    """The HTML page."""
    ok = data.violations == 0
    sim_s = sum(row.sim_s for row in data.rows)
    cpu_s = sum(row.cpu_s for row in data.rows) or 1.0
    events = sum(row.events for row in data.rows)
    verdict = "every promise held" if ok else f"{data.violations} promises broken"
    tiles = [
        (str(len(data.rows)), "scenarios"), (f"{data.runs:,}", f"runs, seeds {data.seeds}"),
        (f"{data.violations}", "promises broken"),
        (seconds(sim_s), "simulated"), (f"{sim_s / cpu_s:,.0f} ×", "faster than real time"),
        (f"{events / cpu_s:,.0f}", "engine events a second and core"),
    ]  # fmt: skip
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>ThunderDB: what was promised, what was measured</title><style>{CSS}</style><main>",
        "<h1>What ThunderDB promises, and what it kept</h1>",
        f"<p class=lead>{len(data.rows)} ways to lose service or data, each played {_plays(data)} in a simulated world that "
        f"breaks on purpose: <b class={'good' if ok else 'bad'}>{verdict}</b>. RTO runs from the fault to the first "
        "acknowledged write, people's time included; RPO is what had been acknowledged and is gone.</p>",
        "<div class=tiles>" + "".join(f"<div class=tile><b>{b}</b><span>{s}</span></div>" for b, s in tiles) + "</div>",
        "<div class=legend style='margin-top:1.5rem'><span>Each dot is a run, placed by the share of its promised RTO that it "
        "used; the red line is the promise. Where 100 GB are played, 4.4 MB stand for them, on devices slower by as much; the "
        "CPU time of replaying is charged at that scale only in scenarios named cpu and in kill_under_load.</span></div>",
    ]
    for folder, title in _titles(data).items():
        rows = [row for row in data.rows if row.folder == folder]
        if rows:
            parts.append(f"<h2>{title}</h2>{_table(rows)}")
    parts += [_worst(data), _coverage(data), _mutants(data), _facts(data), "</main></html>"]
    return "\n".join(parts)


def _plays(data: Data) -> str:
    counts = sorted({row.runs for row in data.rows})
    return f"{counts[0]} times" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} times"


def _table(rows: list[Row]) -> str:
    head = (
        "<colgroup><col><col style='width:6.2rem'><col style='width:4.6rem'><col style='width:5.4rem'>"
        + "<col style='width:4.6rem'>" * 4
        + "<col style='width:10.2rem'></colgroup><thead><tr class=over><th><th class=n colspan=2>RPO<th class=n colspan=5>RTO"
        "<th></tr><tr><th>scenario<th class=n>promised<th class=n>worst<th class=n>promised<th class=n>p50<th class=n>p95"
        "<th class=n>p99<th class=n>worst<th>each run</tr></thead>"
    )
    return f"<table class=rows>{head}<tbody>{''.join(_line(row) for row in rows)}</tbody></table>"


def _line(row: Row) -> str:
    bad = " <span class=bad>✗ broken</span>" if row.violations else ""
    first = (
        f"<td class=wide><span class=name>{escape(row.name)}</span>{bad}<div class=about>{escape(row.about)}</div>"
        f"<details><summary>reproduce</summary><code>{escape(row.command)}</code></details></td>"
    )
    if row.must_refuse:
        said = f"refused by name, {row.refused} of {row.runs} runs"
        return f"<tr>{first}<td class='n wide' colspan=7>must refuse: <b class=good>{said}</b></td><td></td></tr>"
    by_number = row.rpo_promise == "0" or row.rpo_promise.endswith("transactions")
    worst = f"{max(row.lost, default=0)}" if by_number else seconds(max(row.rpo_s, default=0.0))
    cells = [("RPO promised", row.rpo_promise), ("RPO worst", worst), ("RTO promised", f"≤ {seconds(row.rto_promise_s)}")]
    cells += [(f"RTO {name}", seconds(row.rto(p))) for name, p in (("p50", 50), ("p95", 95), ("p99", 99), ("worst", 100))]
    numbers = "".join(f"<td class=n data-l='{label}'>{escape(text)}</td>" for label, text in cells)
    return f"<tr>{first}{numbers}<td class=wide>{strip(row)}<span class=of>{row.runs} runs</span></td></tr>"


def strip(row: Row) -> str:
    """Dots on a line: the share of the promise that each run used."""
    limit = row.rto_promise_s or 1.0
    dots = "".join(f"<circle class=dot cx='{4 + min(1.08, value / limit) * 128:.1f}' cy=9 r=4 />" for value in row.rto_s)
    label = f"RTO of {len(row.rto_s)} runs, from {seconds(min(row.rto_s, default=0))} to {seconds(max(row.rto_s, default=0))}"
    return (
        f"<svg width=146 height=18 viewBox='0 0 146 18' role=img aria-label='{label}'><line class=axis x1=4 x2=142 y1=9 y2=9 />"
        f"{dots}<line class=limit x1=132 x2=132 y1=1 y2=17 /></svg>"
    )


def _worst(data: Data) -> str:
    legend = "".join(f"<span><i style='background:var(--{who})'></i>{word}</span>" for who, word in _WHO.items())
    folders = ("backup", "operator", "region", "corruption", "archive")
    shown = [row for row in data.rows if len(row.worst) > 1 and row.folder in folders]
    bars = "".join(
        f"<div class=worst><span class=name>{escape(row.name)}</span> <span class=of>seed {row.worst_seed}, "
        f"{seconds(row.worst[-1].to_s)} of {seconds(row.rto_promise_s)}</span>{bar(row.worst)}</div>"
        for row in sorted(shown, key=lambda row: -row.worst[-1].to_s)[:14]
    )
    return (
        "<h2>The worst runs, step by step</h2><p>From the fault to the first write, in the run with the longest RTO: how long "
        "it took until somebody noticed and acted, to read backup and log, to lay them down and replay, to serve.</p>"
        f"<div class=legend>{legend}</div>{bars}"
    )


def bar(phases: tuple[Phase, ...], width: int = 1000) -> str:
    """A recovery as one bar, its stretches side by side, the longer ones named."""
    total = phases[-1].to_s or 1.0
    parts, labels = [], []
    for phase in phases:
        x, w = phase.from_s / total * width, (phase.to_s - phase.from_s) / total * width
        title = f"{phase.what}: {seconds(phase.to_s - phase.from_s)}"
        place = f"x='{x:.1f}' y=2 width='{max(1.0, w - 2):.1f}' height=22 rx=4"
        parts.append(f"<rect class={phase.who} {place}><title>{escape(title)}</title></rect>")
        if w > 6.2 * len(title):
            labels.append(f"<text x='{x + 2:.1f}' y=40>{escape(title)}</text>")
    said = "; ".join(f"{phase.what} {seconds(phase.to_s - phase.from_s)}" for phase in phases)
    return f"<svg viewBox='0 0 {width} 46' role=img aria-label='{escape(said)}'>{''.join(parts)}{''.join(labels)}</svg>"


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
        "<h2>What struck what, and when</h2><p>Faults that fired in these runs, by the kind of file they hit, and the engine's "
        f"phase at that moment. A sweep fails if a fault that a scenario enables never fires.</p>{said}"
        f"<div class='matrix struck'><table><thead><tr><th>fault{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<details><summary>by phase</summary><div class=matrix><table><tbody>{listed}</tbody></table></div></details>"
    )


def _mutants(data: Data) -> str:
    body = "".join(
        f"<tr><td>{escape(bug)}</td><td>{escape(run)}</td><td class=n>{escape(seeds)}</td><td class=n>{escape(cpu)}</td></tr>"
        for bug, run, seeds, cpu in data.mutants
    )
    return (
        "<h2>Planted bugs</h2><p>Each is a small diff that breaks one invariant, applied to a copy of the source; seeds "
        f"run until one fails. <b>{escape(data.mutants_summary)}</b></p><div class='matrix bugs'><table><thead><tr>"
        f"<th>bug<th>seen by<th class=n>seeds<th class=n>CPU s</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _facts(data: Data) -> str:
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in data.facts.items())
    return f"<h2>This report</h2><table><tbody>{body}</tbody></table>"


# -- Markdown


def markdown(data: Data) -> str:
    """The same as text."""
    verdict = "Every promise held." if not data.violations else f"{data.violations} promises were broken."
    lines = [
        "# What ThunderDB promises, and what it kept",
        "",
        f"{len(data.rows)} scenarios, {data.runs:,} runs (seeds {data.seeds}). {verdict}",
        "RTO runs from the fault to the first acknowledged write, people's time included; RPO is what had been acknowledged",
        "and is gone. Percentiles are over the runs of a scenario.",
        "",
    ]
    for folder, title in _titles(data).items():
        rows = [row for row in data.rows if row.folder == folder]
        if not rows:
            continue
        lines += [
            f"## {title}", "",
            "| scenario | RPO promised | worst | RTO promised | p50 | p95 | p99 | worst | of it people | runs |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]  # fmt: skip
        for row in rows:
            link = f"{row.name}: {row.about}"
            if row.must_refuse:
                lines.append(f"| {link} | must refuse | refused {row.refused} of {row.runs} | | | | | | | {row.runs} |")
                continue
            lost = seconds(max(row.rpo_s, default=0.0)) if row.rpo_promise != "0" else str(max(row.lost, default=0))
            cells = " | ".join(seconds(row.rto(percent)) for percent in (50, 95, 99, 100))
            lines.append(
                f"| {link} | {row.rpo_promise} | {lost} | ≤ {seconds(row.rto_promise_s)} | {cells} | "
                f"{seconds(row.operator_s)} | {row.runs} |"
            )
        lines.append("")
    lines += ["## Broken promises", ""] if data.violations else []
    for row in data.rows:
        lines += [f"- {row.name}, {text}" for text in row.violations[:5]]
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
