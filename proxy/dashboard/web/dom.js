// Makes elements. Every text goes in as text: there is no way from here to HTML, whatever a label or a tool says.

/** Make an element. `props`: `class`, `on` (listeners), `style` (properties), anything else is an attribute. */
export function h(tag, props = {}, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** Make an element of SVG. */
export function s(tag, props = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

/** Put these in the place of what is in an element. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Make a group of radio buttons that looks like one button of several parts; `chosen` is told what is chosen. */
export function segments(fieldset, name, options, value, chosen) {
  const parts = options.map(([option, label]) => {
    const input = h("input", { type: "radio", name, value: option, on: { change: () => chosen(option) } });
    input.checked = option === value;
    return h("label", {}, input, h("span", {}, label));
  });
  fieldset.append(...parts);
  return fieldset;
}

/** Make a text that only screen readers read. */
export const unseen = (text) => h("span", { class: "unseen" }, text);

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "style") for (const [key, set] of Object.entries(value)) element.style.setProperty(key, set);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  return fill(element, ...children);
}
