// Workloads as text, hex dump or base64.

import { h } from "./dom.js";
import { NONE, visible } from "./format.js";

const ROW = 16;
// On a narrow screen.
const NARROW_ROW = 8;
const narrow = matchMedia("(max-width: 600px)");

// The bytes of a preview.
export function previewBytes(preview) {
  if (preview.encoding === "base64") {
    return Uint8Array.from(atob(preview.content), (character) => character.charCodeAt(0));
  }
  return new TextEncoder().encode(preview.content);
}

export function toBase64(data) {
  let binary = "";
  for (const byte of data) {
    binary += String.fromCharCode(byte);
  }
  return btoa(binary);
}

// A hex dump: offset, 16 or 8 bytes, and their characters.
export function hexDump(data) {
  const lines = [];
  const row = narrow.matches ? NARROW_ROW : ROW;
  for (let offset = 0; offset < data.length; offset += row) {
    const part = [...data.subarray(offset, offset + row)];
    const digits = part.map((byte) => byte.toString(16).padStart(2, "0")).join(" ").padEnd(row * 3 - 1);
    const characters = part.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${offset.toString(16).padStart(6, "0")}  ${digits}  ${characters}`);
  }
  return lines.join("\n");
}

// Formats a preview as "text", "hex" or "base64".
export function shownAs(preview, form) {
  if (form === "hex") {
    return hexDump(previewBytes(preview));
  }
  if (form === "base64") {
    return preview.encoding === "base64" ? preview.content : toBase64(previewBytes(preview));
  }
  return preview.encoding === "text" ? visible(preview.content, true) : visible(new TextDecoder().decode(previewBytes(preview)), true);
}

// Formats a preview on one line.
export function readablePreview(preview) {
  if (!preview) {
    return h("span.muted", null, preview === undefined ? "…" : NONE);
  }
  if (preview.content === "") {
    return h("i.muted", null, "empty");
  }
  const text = preview.encoding === "text" ? visible(preview.content) : [...previewBytes(preview)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  const shown = preview.truncated ? `${text}…` : text;
  return h("bdi.code.preview", { title: shown }, shown);
}
