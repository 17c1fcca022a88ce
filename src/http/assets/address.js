// Keeps filters and sort orders in the URL, so that a page can be linked to, reloaded and returned to.

import { unsegment } from "./api.js";

// Parses URL parameters. Values stay encoded, since a function name need not be UTF-8.
export function parseQuery(text) {
  return new Map(text.split("&").filter(Boolean).map((pair) => {
    const [key, ...rest] = pair.split("=");
    return [key, rest.join("=")];
  }).filter(([, value]) => value !== ""));
}

// The current path and parameters.
export function address() {
  const [path, ...query] = location.hash.slice(1).split("?");
  return { path, query: parseQuery(query.join("?")) };
}

// Decodes a value; returns it encoded if it is not UTF-8. The escapes of path segments are accepted too.
export function readable(encoded = "") {
  try {
    return decodeURIComponent(unsegment(encoded));
  } catch {
    return encoded;
  }
}

// A decoded parameter; empty if it is missing.
export function parameter(key) {
  return readable(address().query.get(key));
}

// Changes a parameter of the current page, without navigation or a new history entry.
export function setParameter(key, value) {
  const { path, query } = address();
  query.delete(key);
  if (value !== "") {
    query.set(key, encodeURIComponent(value));
  }
  history.replaceState(history.state, "", hashOf(path, query));
}

// Navigates to a page with parameters. Values must be encoded already; empty ones are omitted.
export function go(path, parameters) {
  location.hash = hashOf(`/${path}`, new Map(Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined)));
}

// Navigates to the current page with some parameters changed; see `go`.
export function change(parameters) {
  const { path, query } = address();
  go(path.slice(1), { ...Object.fromEntries(query), ...parameters });
}

function hashOf(path, query) {
  const pairs = [...query].map(([key, value]) => `${key}=${value}`);
  return `#${path}${pairs.length > 0 ? `?${pairs.join("&")}` : ""}`;
}
