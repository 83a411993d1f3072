/** Text is sent as UTF-8. */
export function toBytes(data: string | Uint8Array): Uint8Array {
  return typeof data === "string" ? new TextEncoder().encode(data) : data;
}

/** Bytes that are not UTF-8 are replaced. */
export function toText(data: Uint8Array): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(data);
}

export function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

export function toBase64(data: Uint8Array): string {
  const parts = [];
  for (let at = 0; at < data.length; at += 0x8000) {
    parts.push(String.fromCharCode(...data.subarray(at, at + 0x8000)));
  }
  return btoa(parts.join(""));
}
