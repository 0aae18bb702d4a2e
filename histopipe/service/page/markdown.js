// Renders the Markdown of a model card as elements. Text is never parsed as HTML, since a card may contain anything.

export function renderMarkdown(markdown) {
  const part = document.createDocumentFragment();
  const lines = markdown.split("\n");
  for (let at = 0; at < lines.length; ) {
    const [element, next] = block(lines, at);
    if (element) part.append(element);
    at = next;
  }
  return part;
}

function block(lines, at) {
  const line = lines[at];
  if (!line.trim()) return [null, at + 1];
  const heading = /^(#+)\s+(.*)$/.exec(line);
  if (heading) return [inlineElement(heading[1].length === 1 ? "h3" : "h4", heading[2]), at + 1];
  if (line.startsWith("|")) return table(lines, at);
  if (/^[-*] /.test(line)) return list(lines, at);
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !/^(#|\||[-*] )/.test(lines[end])) end++;
  return [inlineElement("p", lines.slice(at, end).join(" ")), end];
}

function list(lines, at) {
  const items = document.createElement("ul");
  let end = at;
  for (; end < lines.length && /^[-*] /.test(lines[end]); end++) items.append(inlineElement("li", lines[end].slice(2)));
  return [items, end];
}

function table(lines, at) {
  const scroll = document.createElement("div");
  scroll.className = "scroll";
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "table of the model card");
  const rows = document.createElement("table");
  let end = at;
  for (; end < lines.length && lines[end].startsWith("|"); end++) {
    const cells = lines[end].replace(/^\||\|\s*$/g, "").split("|").map(cell => cell.trim());
    if (cells.every(cell => /^:?-+:?$/.test(cell))) continue;
    const row = rows.insertRow();
    for (const cell of cells) {
      const node = inlineElement(end === at ? "th" : "td", cell);
      if (end === at) node.scope = "col";
      row.append(node);
    }
  }
  scroll.append(rows);
  return [scroll, end];
}

function inlineElement(name, text) {
  const element = document.createElement(name);
  for (const piece of text.split(/(\*\*[^*]+\*\*|`[^`]+`)/)) {
    const strong = /^\*\*([^*]+)\*\*$/.exec(piece), code = /^`([^`]+)`$/.exec(piece);
    if (!strong && !code) { element.append(piece); continue; }
    const inner = document.createElement(strong ? "strong" : "code");
    inner.textContent = (strong || code)[1];
    element.append(inner);
  }
  return element;
}
