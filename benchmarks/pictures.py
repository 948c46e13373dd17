"""How long the picture of a run takes: read, laid out, written as SVG, and drawn by a browser (``--browser``).

CPU seconds, so that a busy machine says much the same as an idle one. The browser's are those of the thread of the
page, from the data of the picture to the frame that shows it, with the scripts and the style of the page.
"""

from __future__ import annotations

import asyncio
import gc
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import Row, arguments, row, save
from dalang.api.ui.run_drawing import LiveDrawing, looks
from dalang.api.ui.run_scenes import Scene, coded, live_picture
from dalang.sketch import sketch

STATIC = Path(__file__).resolve().parent.parent / "api" / "ui" / "static"
SHAPES = ((20, 100), (100, 20), (400, 5), (1, 2_000), (40, 300), (1_200, 10), (20, 600))


def grid(width: int, depth: int) -> dict[str, Any]:
    """Return a plan of so many levels, each node after one or two of the level before."""
    chance = random.Random(1)
    nodes, edges = [], []
    for level in range(depth):
        for place in range(width):
            name = f"n{level}_{place}"
            nodes.append({"nodeId": name, "type": f"type{place % 3}", "name": f"Step {level}.{place}"})
            for source in {place, chance.randrange(width)} if level else ():
                edges.append({"sourceNodeId": f"n{level - 1}_{source}", "targetNodeId": name})
    return {"name": f"{width} x {depth}", "nodes": nodes, "edges": edges}


def measured(act: Callable[[], Any]) -> tuple[Any, float]:
    """Return what ``act`` returns, and the CPU seconds it took."""
    gc.collect()
    began = time.process_time()
    return act(), time.process_time() - began


PAGE = """<!doctype html><link rel="stylesheet" href="/ui.css"><link rel="stylesheet" href="/run.css">
<body><main><div id="panel"></div><output id="scale"></output><div id="canvas" class="canvas"></div></main>"""
SHOW = """async data => {
    const [{ Picture }, { View }] = await Promise.all([import("/run_picture.js"), import("/run_view.js")]);
    new View(document.getElementById("canvas")).take(new Picture(document.getElementById("canvas"), data));
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""


async def in_browser(pictures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return for each picture the CPU seconds of a browser from its data to the frame that shows it."""
    from playwright.async_api import Route, async_playwright

    async def answer(route: Route) -> None:
        name = route.request.url.rsplit("/", 1)[1]
        body = (STATIC / name).read_text(encoding="utf-8") if name else PAGE
        kinds = {".css": "text/css", ".js": "text/javascript"}
        await route.fulfill(body=body, content_type=kinds.get(Path(name).suffix, "text/html"))

    found = {}
    async with async_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        for name, data in pictures.items():
            page = await browser.new_page(viewport={"width": 1440, "height": 900})
            await page.route("**/*", answer)
            await page.goto("http://pictures.invalid/")
            devtools = await page.context.new_cdp_session(page)
            await devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
            before = await _busy(devtools)
            await page.evaluate(SHOW, data)
            found[name] = await _busy(devtools) - before
            await page.close()
        await browser.close()
    return found


async def _busy(devtools: Any) -> float:
    """Return the CPU seconds of the page's thread so far: scripts, style, layout and painting."""
    metrics = (await devtools.send("Performance.getMetrics"))["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--browser", action="store_true", help="Draw them in chromium, too.")
    options = parser.parse_args()
    measures: list[Row] = []
    pictures: dict[str, dict[str, Any]] = {}
    rows = []
    for width, depth in SHAPES:
        document = grid(width, depth)
        plan, read = measured(lambda document=document: sketch(document))
        scene, laid = measured(lambda plan=plan: Scene.of(plan, LiveDrawing(live_picture(plan))))
        drawing = scene.drawing
        statuses = {node.node_id: "SUCCESS" for node in plan.nodes}
        svg, written = measured(lambda drawing=drawing, statuses=statuses: drawing.fragment(statuses))
        state = {"statuses": coded(statuses.values()), "times": {}}
        known = {"ids": scene.ids, "boxes": scene.boxes, "groups": scene.groups(), "down": drawing.down}
        pictures[plan.name] = {"svg": svg, "looks": looks(), "state": state, **known}
        rows.append((plan.name, len(plan.nodes), len(drawing.frames), read, laid, written, len(svg) // 1000))
    shown = asyncio.run(in_browser(pictures)) if options.browser else {}
    print("plan (wide x deep) | nodes | boxes | read s | lay out s | write s | SVG kB | browser s | in all s")
    for name, nodes, boxes, read, laid, written, size in rows:
        browser = shown.get(name, 0.0)
        total = read + laid + written + browser
        print(
            f"{name:>18} | {nodes:5} | {boxes:5} | {read:6.2f} | {laid:9.2f} | {written:7.2f} | {size:6} | "
            f"{f'{browser:.2f}' if shown else '-':>9} | {total:8.2f}"
        )
        case = f"{name}: {nodes:,} nodes, {boxes:,} boxes"
        parts = {"read": read, "laid out": laid, "written": written} | ({"in the browser": browser} if shown else {})
        measures += [row(case, part, "CPU s", seconds) for part, seconds in parts.items()]
    if options.save:
        save("pictures", "The picture of a run", measures, ["Measured once each; the server keeps what it laid out."])


if __name__ == "__main__":
    main()
