// The part of the address that holds filters and the order of tables, so that a page can be linked to, reloaded and come back to.

import { unsegment } from "./api.js";

// The parameters of an address. Values stay as they are written, since the name of a function need be no UTF-8.
export function parseQuery(text) {
  return new Map(text.split("&").filter(Boolean).map((pair) => {
    const [key, ...rest] = pair.split("=");
    return [key, rest.join("=")];
  }).filter(([, value]) => value !== ""));
}

// The path and the parameters that the address has now.
export function address() {
  const [path, ...query] = location.hash.slice(1).split("?");
  return { path, query: parseQuery(query.join("?")) };
}

// A value as text; as it is written where it is no UTF-8. A name may stand there as in paths.
export function readable(encoded = "") {
  try {
    return decodeURIComponent(unsegment(encoded));
  } catch {
    return encoded;
  }
}

// A parameter as text; empty where there is none.
export function parameter(key) {
  return readable(address().query.get(key));
}

// Changes a parameter of the page that is shown. The page stays as it is, and so does the way back.
export function setParameter(key, value) {
  const { path, query } = address();
  query.delete(key);
  if (value !== "") {
    query.set(key, encodeURIComponent(value));
  }
  history.replaceState(history.state, "", hashOf(path, query));
}

// Goes to a page with parameters; values are encoded already, and those without one are left out.
export function go(path, parameters) {
  location.hash = hashOf(`/${path}`, new Map(Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined)));
}

// Goes to the page that is shown with other values of some parameters; see `go`.
export function change(parameters) {
  const { path, query } = address();
  go(path.slice(1), { ...Object.fromEntries(query), ...parameters });
}

function hashOf(path, query) {
  const pairs = [...query].map(([key, value]) => `${key}=${value}`);
  return `#${path}${pairs.length > 0 ? `?${pairs.join("&")}` : ""}`;
}
