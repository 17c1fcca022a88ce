// A small virtual DOM: updates the page in place, so that focus, selection and scroll positions survive a
// refresh.
//
// h() and widget() describe nodes. patch() updates the children of a parent to match the descriptions, and
// leaves unchanged nodes alone. Text becomes only text nodes and attributes, never markup: names of
// functions, workers and jobs are untrusted.

const SVG = "http://www.w3.org/2000/svg";
const META = Symbol("what this node was made from");

// Properties of fields that the user edits: set once, and not overwritten by a refresh.
const FIELDS = new Set(["input", "select", "textarea"]);
const TYPED = new Set(["value", "checked"]);

// Describes an element. `tag` may contain classes: "td.number". `props` are attributes; `on` holds listeners,
// `style` CSS properties, and `key` identifies the element among its siblings.
export function h(tag, props, ...children) {
  const [name, ...classes] = tag.split(".");
  const all = props ?? {};
  const names = [...classes, all.class].filter(Boolean).join(" ");
  return { kind: name, key: all.key, props: names ? { ...all, class: names } : all, children: flat(children) };
}

// Describes an element that renders itself: `Class` has an `element`, `update(props)` and optionally
// `leave()`.
export function widget(Class, key, props) {
  return { kind: Class, key, props, children: [] };
}

function flat(children) {
  const result = [];
  for (const child of children) {
    if (Array.isArray(child)) {
      result.push(...flat(child));
    } else if (child !== null && child !== undefined && child !== false && child !== "") {
      result.push(typeof child === "object" ? child : { kind: "#text", text: String(child) });
    }
  }
  return result;
}

// Creates an element from a description.
export function create(description) {
  const holder = document.createElement("div");
  patch(holder, [description]);
  return holder.firstChild;
}

// Updates the children of `parent` to match `wanted`. A focused element that still exists keeps the focus.
export function render(parent, wanted) {
  const focused = document.activeElement;
  patch(parent, wanted);
  if (focused && focused !== document.activeElement && focused.isConnected && parent.contains(focused)) {
    focused.focus({ preventScroll: true });
  }
}

function patch(parent, wanted) {
  const descriptions = flat(wanted);
  const old = new Map();
  for (const node of [...parent.childNodes]) {
    const meta = node[META];
    const name = meta ? signature(meta.kind, meta.key) : "";
    if (!old.has(name)) {
      old.set(name, []);
    }
    old.get(name).push(node);
  }
  const nodes = descriptions.map((description) => {
    const name = signature(description.kind, description.key);
    return old.get(name)?.shift() ?? make(description, parent);
  });
  for (const list of old.values()) {
    for (const node of list) {
      leave(node);
      node.remove();
    }
  }
  let place = parent.firstChild;
  nodes.forEach((node, index) => {
    if (node === place) {
      place = place.nextSibling;
    } else {
      parent.insertBefore(node, place);
    }
    change(node, descriptions[index]);
  });
}

const classNames = new Map();

function signature(kind, key) {
  let name = kind;
  if (typeof kind === "function") {
    name = classNames.get(kind) ?? `widget ${classNames.size}`;
    classNames.set(kind, name);
  }
  return key === undefined ? name : `${name} ${key}`;
}

function make(description, parent) {
  const { kind, key } = description;
  let node;
  if (kind === "#text") {
    node = document.createTextNode(description.text);
  } else if (typeof kind === "function") {
    const made = new kind(description.props);
    node = made.element;
    node[META] = { kind, key, made, props: {} };
    return node;
  } else if (kind === "svg" || parent.namespaceURI === SVG) {
    node = document.createElementNS(SVG, kind);
  } else {
    node = document.createElement(kind);
  }
  node[META] = { kind, key, props: {}, fresh: true };
  return node;
}

function change(node, description) {
  const meta = node[META];
  if (description.kind === "#text") {
    if (node.data !== description.text) {
      node.data = description.text;
    }
    return;
  }
  if (meta.made) {
    meta.made.update(description.props);
    return;
  }
  // The options of a select must exist before its value is set.
  patch(node, description.children);
  setProps(node, meta, description.props);
  meta.props = description.props;
  meta.fresh = false;
}

function setProps(node, meta, props) {
  const isField = FIELDS.has(meta.kind);
  for (const name of Object.keys(meta.props)) {
    if (!(name in props) && name !== "on" && name !== "key" && name !== "style" && !(isField && TYPED.has(name))) {
      node.removeAttribute(name);
    }
  }
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") {
      listen(node, meta, value);
    } else if (name === "style") {
      setStyle(node, value);
    } else if (isField && TYPED.has(name)) {
      if (meta.fresh) {
        node[name] = value;
      }
    } else if (name !== "key" && meta.props[name] !== value) {
      setAttribute(node, name, value);
    }
  }
}

function setAttribute(node, name, value) {
  if (value === false || value === null || value === undefined) {
    node.removeAttribute(name);
  } else {
    node.setAttribute(name, value === true ? "" : String(value));
  }
}

// The content security policy blocks style attributes, but not properties.
function setStyle(node, style) {
  for (const [name, value] of Object.entries(style)) {
    if (node.style.getPropertyValue(name) !== value) {
      node.style.setProperty(name, value);
    }
  }
}

// Listeners are looked up when the event fires, so that a refresh need not replace them.
function listen(node, meta, listeners) {
  meta.listened ??= new Set();
  for (const type of Object.keys(listeners)) {
    if (!meta.listened.has(type)) {
      meta.listened.add(type);
      node.addEventListener(type, (event) => meta.props.on?.[type]?.(event));
    }
  }
}

function leave(node) {
  node[META]?.made?.leave?.();
  for (const child of node.childNodes) {
    leave(child);
  }
}
