"use strict";
// A click on the image of a content-aware operator shows what each step computes there.
for (const figure of document.querySelectorAll(".clickable")) {
  const area = figure.querySelector(".choose"), point = figure.querySelector(".point");
  const layers = [...figure.querySelectorAll(".layers li")].map(item => ({
    svg: item.querySelector("svg"), kind: item.dataset.kind, depth: +item.dataset.depth,
    rows: +item.dataset.rows, columns: +item.dataset.columns,
    height: +item.dataset.height, width: +item.dataset.width,  // of the image, in rows and columns
    neighbours: item.dataset.neighbours.split(" ").filter(Boolean).map(pair => pair.split(",").map(Number)),
    values: Uint8Array.from(atob(item.dataset.values), letter => letter.charCodeAt(0)),
  }));
  let x = 0.5, y = 0.5;  // of the point, as shares of the image
  const add = (svg, name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    svg.append(element);
  };
  const draw = () => {
    point.style.left = `${100 * x}%`;
    point.style.top = `${100 * y}%`;
    for (const layer of layers) {
      const row = Math.min(layer.rows - 1, Math.floor(y * layer.height));
      const column = Math.min(layer.columns - 1, Math.floor(x * layer.width));
      const start = (row * layer.columns + column) * layer.depth;
      const numbers = layer.values.slice(start, start + layer.depth);
      layer.svg.replaceChildren();
      if (layer.kind === "kernel") {
        const highest = Math.max(...numbers, 1);
        const reach = Math.max(...layer.neighbours.flat().map(Math.abs)) + 0.5, scale = 4 / reach;
        numbers.forEach((number, index) => {
          const [down, right] = layer.neighbours[index], level = Math.round(255 * number / highest);
          add(layer.svg, "rect", {
            x: (right - 0.5) * scale, y: (down - 0.5) * scale, width: scale, height: scale,
            fill: `rgb(${level},${Math.round(level * 0.75)},${Math.round(40 + level * 0.2)})`,
          });
        });
      } else {
        const [right, down] = [...numbers].map(number => (number / 255 - 0.5) * 8);
        add(layer.svg, "circle", { cx: 0, cy: 0, r: 1, fill: "none", stroke: "var(--soft)", "stroke-width": 0.1 });
        add(layer.svg, "line", { x1: 0, y1: 0, x2: right, y2: down, stroke: "var(--series-1)", "stroke-width": 0.25 });
        add(layer.svg, "circle", { cx: right, cy: down, r: 0.3, fill: "var(--series-1)" });
      }
    }
  };
  const move = (newX, newY) => {
    x = Math.min(1, Math.max(0, newX));
    y = Math.min(1, Math.max(0, newY));
    draw();
  };
  area.addEventListener("click", event => {
    const box = area.getBoundingClientRect();
    move((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  });
  area.addEventListener("keydown", event => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!steps) return;
    event.preventDefault();
    move(x + steps[0] / 48, y + steps[1] / 48);
  });
  draw();
}
