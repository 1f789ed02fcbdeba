// The luminance of the page, the texts of least contrast (WCAG 2.2, 1.4.3) with their elements, and how many texts.
const number = (text) => text.match(/[\d.]+/g).map(Number);
const over = (top, below) => { const a = top[3] ?? 1; return [0, 1, 2].map(i => a * top[i] + (1 - a) * below[i]); };
const backs = (e) => {
  const found = [];
  for (let at = e; at; at = at.parentElement) {
    const style = getComputedStyle(at);
    const stops = style.backgroundImage.match(/rgba?\([^)]*\)/g) || [];
    found.push(stops.length ? stops.map(number) : [number(style.backgroundColor)]);
  }
  let under = [[255, 255, 255]];
  for (const layer of found.reverse()) under = layer.flatMap(top => under.map(below => over(top, below)));
  return under;
};
const light = (c) => {
  const [r, g, b] = c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const worst = [];
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const e = node.parentElement;
  if (!node.data.trim() || ["SCRIPT", "STYLE", "title"].includes(e.tagName)) continue;
  const style = getComputedStyle(e);
  const colour = number(e instanceof SVGElement ? style.fill : style.color);
  worst.push([Math.min(...backs(e).map(back => ratio(over(colour, back), back))), e.className.baseVal ?? e.className,
    node.data.trim().slice(0, 40)]);
}
const page = number(getComputedStyle(document.body).backgroundColor);
return [light(page), worst.sort((a, b) => a[0] - b[0]).slice(0, 5), worst.length];
