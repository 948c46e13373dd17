// The difference of two texts, line by line.
export function difference(before, after) {
  const old = before.split("\n"), now = after.split("\n");
  if (old.length * now.length > 400_000) return [["place", "Too long to be compared here."]];
  const longest = Array.from({ length: old.length + 1 }, () => new Uint16Array(now.length + 1));
  for (let a = old.length - 1; a >= 0; a--) for (let b = now.length - 1; b >= 0; b--) longest[a][b] = old[a] === now[b] ? longest[a + 1][b + 1] + 1 : Math.max(longest[a + 1][b], longest[a][b + 1]);
  const lines = [];
  let a = 0, b = 0;
  while (a < old.length || b < now.length) {
    if (a < old.length && b < now.length && old[a] === now[b]) { lines.push(["same", ` ${old[a++]}`]); b++; }
    else if (b >= now.length || (a < old.length && longest[a + 1][b] >= longest[a][b + 1])) lines.push(["minus", `-${old[a++]}`]);
    else lines.push(["plus", `+${now[b++]}`]);
  }
  return lines;
}

/** The difference as an element; null where there is none. */
export function drawn(before, after) {
  if (before === after) return null;
  const pre = document.createElement("pre");
  pre.className = "diff";
  for (const [kind, line] of difference(before, after)) {
    const one = document.createElement("span");
    one.className = kind;
    one.textContent = line;
    pre.append(one);
  }
  return pre;
}
