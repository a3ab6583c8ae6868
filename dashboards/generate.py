#!/usr/bin/env python3
"""Writes the Grafana boards of this folder, one JSON file each, from what boards.py says of them.

    generate.py            writes them
    generate.py --check    fails where a file is not what would be written

Here is the form only (grid, units, variables); a test of tests/scripts calls `--check`.
"""

import argparse
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import boards

HERE = Path(__file__).resolve().parent
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24  # columns of Grafana's grid

# What `@`, `@p` and `@m` in braces stand for: what the variables at the head of a board select.
PROCESS = 'job=~"$job",instance=~"$instance"'
MATCHERS = {"{@p": "{" + PROCESS + ',policy=~"$policy"', "{@m": "{" + PROCESS + ',model=~"$model"', "{@": "{" + PROCESS}


def spell_out(expr):
    """A query as Grafana gets it."""
    for short, long in MATCHERS.items():
        expr = expr.replace(short, long)
    return " ".join(expr.split())


def variable(name, label, query):
    """A list of label values, several or all of which may be chosen."""
    return {
        "name": name, "label": label, "type": "query", "datasource": SOURCE, "definition": query,
        "query": {"query": query, "refId": f"variable-{name}"}, "refresh": 2, "sort": 1,
        "includeAll": True, "allValue": ".*", "multi": True, "current": {"text": ["All"], "value": ["$__all"]},
    }


VARIABLES = {
    "job": variable("job", "Job", "label_values(weir_build_info, job)"),
    "instance": variable("instance", "Instance", 'label_values(weir_build_info{job=~"$job"}, instance)'),
    "policy": variable("policy", "Policy", 'label_values(weir_cascade_total{job=~"$job"}, policy)'),
    "model": variable("model", "Model", 'label_values(weir_e2e_seconds_count{job=~"$job"}, model)'),
    "score": {
        **variable("score", "Score", 'label_values(weir_confidence_bucket{job=~"$job",le="+Inf"}, score)'),
        "includeAll": False, "multi": False, "allValue": None, "current": {"text": "min_logprob", "value": "min_logprob"},
    },
}
DATASOURCE = {
    "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1,
    "current": {}, "hide": 0, "includeAll": False, "multi": False,
}


def render_targets(kind, queries):
    targets = []
    for letter, (expr, legend) in zip("ABCDEFGH", queries):
        target = {"refId": letter, "datasource": SOURCE, "expr": spell_out(expr), "legendFormat": legend}
        if kind in ("stat", "table", "bargauge"):
            target |= {"instant": True, "range": False, "format": "table" if kind == "table" else "time_series"}
        else:
            target |= {"instant": False, "range": True, "format": "heatmap" if kind == "heatmap" else "time_series"}
        targets.append(target)
    return targets


def render_defaults(panel):
    """How values look: unit, bounds, words for numbers, thresholds."""
    defaults = {"unit": panel["unit"], "color": {"mode": panel.get("color", "palette-classic")}}
    defaults |= {key: panel[key] for key in ("min", "max", "decimals", "noValue") if key in panel}
    if "words" in panel:
        shown = {str(value): {"text": text, "color": color} for value, (text, color) in panel["words"].items()}
        defaults["mappings"] = [{"type": "value", "options": shown}]
    steps = [{"color": color, "value": value} for value, color in panel.get("steps", [(None, "green")])]
    defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    if panel["kind"] == "timeseries":
        custom = {"lineWidth": 1, "fillOpacity": 15 if panel.get("stack") else 5, "showPoints": "never", "spanNulls": True}
        custom["stacking"] = {"mode": "normal" if panel.get("stack") else "none", "group": "A"}
        if "log" in panel:
            custom["scaleDistribution"] = {"type": "log", "log": panel["log"]}
        defaults["custom"] = custom
    return defaults


OPTIONS = {
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "none", "textMode": "auto"},
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "heatmap": {
        "calculate": False, "cellGap": 0, "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "yAxis": {"unit": "short"}, "tooltip": {"mode": "single", "yHistogram": True}, "legend": {"show": True},
    },
    "state-timeline": {"showValue": "never", "mergeValues": True, "rowHeight": 0.8,
                       "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}},
    "table": {"showHeader": True, "cellHeight": "sm"},
    "bargauge": {"orientation": "horizontal", "displayMode": "basic", "reduceOptions": {"calcs": ["lastNotNull"]}},
}


def render_panel(panel, number, place):
    rendered = {
        "id": number, "type": panel["kind"], "title": panel["title"], "description": panel["tells"],
        "datasource": SOURCE, "gridPos": place, "targets": render_targets(panel["kind"], panel["queries"]),
        "fieldConfig": {"defaults": render_defaults(panel), "overrides": []}, "options": OPTIONS[panel["kind"]],
    }
    if panel["kind"] == "table":
        hidden = {name: True for name in ("Time", "job", "instance", "__name__", *panel.get("hide", []))}
        rendered["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
    return rendered


def render_panels(rows):
    """Rows under their headings; panels fill a row from the left and go on in the next line."""
    panels, y = [], 0
    for heading, content in rows:
        panels.append({"id": len(panels) + 1, "type": "row", "title": heading, "collapsed": False, "panels": [],
                       "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y}})
        y, x, line = y + 1, 0, 0
        for panel in content:
            width, height = panel["size"]
            if x + width > WIDTH:
                y, x, line = y + line, 0, 0
            panels.append(render_panel(panel, len(panels) + 1, {"h": height, "w": width, "x": x, "y": y}))
            x, line = x + width, max(line, height)
        y += line
    return panels


def render_board(board):
    links = [{"type": "dashboards", "title": "Weir", "tags": ["weir"], "asDropdown": True, "includeVars": True,
              "keepTime": True}]
    return {
        "uid": board["uid"], "title": board["title"], "description": board["tells"], "tags": ["weir"],
        "schemaVersion": 39, "version": 1, "editable": True, "graphTooltip": 1, "links": links, "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"}, "timezone": "browser", "annotations": {"list": [reloads()]},
        "templating": {"list": [DATASOURCE, *(VARIABLES[name] for name in ("job", "instance", *board["by"]))]},
        "panels": render_panels(board["rows"]),
    }


def reloads():
    """A mark on every graph where the configuration changed."""
    expr = spell_out("changes(weir_generation{@}[$__interval]) > 0")
    return {"name": "Configuration", "datasource": SOURCE, "enable": True, "iconColor": "blue", "expr": expr,
            "titleFormat": "A new generation of the configuration", "step": "30s"}


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--check", action="store_true", help="write nothing; fail where a file is stale")
    check = flags.parse_args().check
    stale = []
    for board in boards.ALL:
        file = HERE / f"{board['uid']}.json"
        text = json.dumps(render_board(board), indent=1, ensure_ascii=False) + "\n"
        if not file.exists() or file.read_text() != text:
            stale.append(file.name)
            if not check:
                file.write_text(text)
    if check and stale:
        sys.exit(f"stale: {', '.join(stale)}; run python3 dashboards/generate.py")


if __name__ == "__main__":
    main()
