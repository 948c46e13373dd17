// The picture of a revision: looked at as the graph is, without what lives.
import { View } from "./run_view.js";

const canvas = document.getElementById("canvas");
const svg = canvas.querySelector("svg");
const boxes = [...svg.querySelectorAll(".node")].map((element) => {
  const [, x, y] = element.getAttribute("transform").match(/translate\(([-\d.]+),([-\d.]+)\)/);
  const card = element.querySelector(".card");
  return { element, x: Number(x), y: Number(y), width: card.width.baseVal.value, height: card.height.baseVal.value, into: [], from: [], status: element.dataset.change ? "RUNNING" : "PENDING" };
});
for (const element of svg.querySelectorAll(".edge")) {
  const edge = { source: Number(element.dataset.from), target: Number(element.dataset.to) };
  boxes[edge.source].from.push(edge);
  boxes[edge.target].into.push(edge);
}
for (const box of boxes) {
  const change = box.element.dataset.change;
  box.element.querySelector(".word").textContent = change ? { added: "+ added", removed: "− removed", changed: "~ changed" }[change] : "";
}
new View(canvas).take({ svg, boxes, down: svg.dataset.down === "true" });
