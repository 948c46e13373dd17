// The picture of a revision: looked at as the graph is, without what lives.
import { View } from "./run_view.js";

const canvas = document.getElementById("canvas");
const svg = canvas.querySelector("svg");
const boxes = [...svg.querySelectorAll(".node")].map((element) => {
  const [, x, y] = element.getAttribute("transform").match(/translate\(([-\d.]+),([-\d.]+)\)/);
  const card = element.querySelector(".card");
  return { element, x: Number(x), y: Number(y), width: Number(card.getAttribute("width")), height: Number(card.getAttribute("height")), into: [], from: [], status: element.dataset.change ? "RUNNING" : "PENDING" };
});
const edges = [...svg.querySelectorAll(".edge")].map((element) => {
  const edge = { element, source: Number(element.dataset.from), target: Number(element.dataset.to) };
  boxes[edge.source].from.push(edge);
  boxes[edge.target].into.push(edge);
  return edge;
});
for (const box of boxes) {
  const change = box.element.dataset.change;
  box.element.querySelector(".word").textContent = change ? { added: "+ added", removed: "− removed", changed: "~ changed" }[change] : "";
}
new View(canvas).take({ svg, boxes, edges, culled: svg.classList.contains("cull"), down: svg.dataset.down === "true" });
