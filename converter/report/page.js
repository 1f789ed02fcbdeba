"use strict";
(() => {
  // ------------------------------------------------------------ digests
  const said = (button, text) => {
    const before = button.textContent;
    button.textContent = text;
    setTimeout(() => { button.textContent = before; }, 1500);
  };
  const selected = (node) => {
    const range = document.createRange();
    range.selectNodeContents(node);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  };
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(button.dataset.copy);
        said(button, "copied");
      } catch {
        selected(button.previousElementSibling);
        said(button, "selected");
      }
    });
  }

  // ------------------------------------------------------------ layers
  const flow = document.getElementById("flow");
  if (!flow) return;
  const SVG = "http://www.w3.org/2000/svg";
  const MOST = 1500; // edges drawn at once
  const LANES = 6;
  const layers = new Map([...flow.querySelectorAll("details.layer")].map((row) => [+row.dataset.i, row]));
  const holders = new Map();
  for (const block of flow.querySelectorAll("details.block[data-own]")) holders.set(+block.dataset.own, block);
  const blocks = [...flow.querySelectorAll("details.block")];
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  flow.append(svg);

  const closed = (row) => {
    let found = null;
    for (let at = row.parentElement.closest("details.block"); at; at = at.parentElement.closest("details.block")) {
      if (!at.open) found = at;
    }
    return found;
  };
  const shown = (row) => closed(row) || row;
  // Where a layer stands on the page: its row, the closed block around it, the last row of what it holds.
  const place = (number) => {
    if (layers.has(number)) return shown(layers.get(number));
    const block = holders.get(number);
    if (!block) return null;
    const around = shown(block);
    if (around !== block || !block.open) return around;
    const inner = block.querySelectorAll("details.layer");
    return inner.length ? shown(inner[inner.length - 1]) : block;
  };

  const edges = (rows) => {
    const pairs = new Map();
    const order = new Map(rows.map((row, index) => [row, index]));
    const put = (from, to, known) => {
      if (!from || !to || from === to || !order.has(from) || !order.has(to)) return;
      const a = order.get(from), b = order.get(to);
      if (a < b) pairs.set(a * 65536 + b, { a, b, known });
    };
    for (const [number, row] of layers) {
      const to = shown(row);
      if (row.dataset.r === undefined) {
        const at = order.get(to);
        if (at) put(rows[at - 1], to, false);
        continue;
      }
      for (const read of row.dataset.r.split(" ").filter(Boolean)) put(place(+read), to, true);
    }
    return [...pairs.values()].slice(0, MOST);
  };

  const draw = () => {
    const visible = [...flow.querySelectorAll("details.row")].filter(
      (row) => row.getClientRects().length && !closed(row) && !(row.classList.contains("block") && row.open),
    );
    const origin = flow.getBoundingClientRect();
    const boxes = visible.map((row) => {
      const box = row.firstElementChild.getBoundingClientRect();
      return { left: box.left - origin.left, top: box.top - origin.top, bottom: box.bottom - origin.top };
    });
    svg.setAttribute("width", origin.width);
    svg.setAttribute("height", origin.height);
    svg.replaceChildren();
    const gutter = parseFloat(getComputedStyle(flow).paddingLeft);
    const found = edges(visible).sort((x, y) => x.b - x.a - (y.b - y.a));
    const busy = Array.from({ length: LANES }, () => []);
    for (const { a, b, known } of found) {
      const from = boxes[a], to = boxes[b];
      const path = document.createElementNS(SVG, "path");
      if (b === a + 1) {
        const x = Math.max(from.left, to.left) + 22;
        path.setAttribute("d", `M${x} ${from.bottom}V${to.top}`);
      } else {
        let lane = busy.findIndex((spans) => spans.every(([s, e]) => e <= a || s >= b));
        if (lane < 0) lane = LANES - 1;
        busy[lane].push([a, b]);
        const x = Math.max(2, gutter - 10 - (lane * (gutter - 12)) / LANES);
        const y = from.bottom - 9, z = to.top + 9, r = 6;
        path.setAttribute("d", `M${from.left} ${y}H${x + r}Q${x} ${y} ${x} ${y + r}V${z - r}Q${x} ${z} ${x + r} ${z}H${to.left}`);
      }
      const gone = [visible[a], visible[b]].some((row) => row.matches(".away, .dropped"));
      path.setAttribute("class", known && !gone ? "edge" : "edge gone");
      path.dataset.ends = `${a} ${b}`;
      svg.append(path);
    }
    visible.forEach((row, index) => { row.dataset.at = index; });
  };
  let asked = 0;
  const redraw = () => {
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(draw);
  };
  const light = (event, on) => {
    const row = event.target.closest && event.target.closest("details.row");
    if (!row || row.dataset.at === undefined) return;
    for (const path of svg.children) {
      path.classList.toggle("lit", on && path.dataset.ends.split(" ").includes(row.dataset.at));
    }
  };
  flow.addEventListener("mouseover", (event) => light(event, true));
  flow.addEventListener("mouseout", (event) => light(event, false));
  flow.addEventListener("focusin", (event) => light(event, true));
  flow.addEventListener("focusout", (event) => light(event, false));
  flow.addEventListener("toggle", redraw, true);
  new ResizeObserver(redraw).observe(flow);

  // ------------------------------------------------------------ tools
  const tools = document.getElementById("tools");
  const button = (text, action) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.addEventListener("click", action);
    tools.append(made);
  };
  if (blocks.length) {
    button("Open all blocks", () => { for (const block of blocks) block.open = true; });
    button("Close all blocks", () => { for (const block of blocks) block.open = false; });
  }
  if (layers.size > 12) {
    const search = document.createElement("input");
    search.type = "search";
    search.placeholder = "Find a layer";
    search.setAttribute("aria-label", "find a layer by its name or kind");
    search.addEventListener("input", () => {
      const text = search.value.trim().toLowerCase();
      const hit = (row) => !text || row.firstElementChild.textContent.toLowerCase().includes(text);
      for (const row of layers.values()) row.hidden = !hit(row);
      for (const block of [...blocks].reverse()) {
        const some = block.querySelector("details.layer:not([hidden])");
        block.hidden = !some;
        if (text && some) block.open = true;
      }
      redraw();
    });
    tools.append(search);
  }
  addEventListener("beforeprint", () => { for (const block of blocks) block.open = true; });
  redraw();
})();
