// Creates elements. Every text is inserted as text; nothing here parses HTML, whatever a label or a tool output contains.

/** Create an element. `props`: `class`, `on` (listeners), `style` (properties); any other name is an attribute. */
export function h(tag, props = {}, ...children) {
  return setUp(document.createElement(tag), props, children);
}

/** Create an SVG element. */
export function s(tag, props = {}, ...children) {
  return setUp(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

/** Replace the children of an element; null, undefined and false are skipped. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Fill a fieldset with radio buttons that look like one segmented button; `onSelect` receives the selected option. */
export function segments(fieldset, name, options, value, onSelect) {
  const labels = options.map(([option, label]) => {
    const input = h("input", { type: "radio", name, value: option, on: { change: () => onSelect(option) } });
    input.checked = option === value;
    return h("label", {}, input, h("span", {}, label));
  });
  fieldset.append(...labels);
  return fieldset;
}

/** Create a text for screen readers only. */
export const visuallyHidden = (text) => h("span", { class: "visually-hidden" }, text);

function setUp(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "style") for (const [property, setting] of Object.entries(value)) element.style.setProperty(property, setting);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  return fill(element, ...children);
}
