// Server-sent events (WHATWG HTML, section 9.2), as far as this server uses them. Pure.

/** Turns pieces of text into events: { kind, id, data } with data parsed from JSON. */
export class EventParser {
  #rest = "";
  #id = null;

  feed(text) {
    const parts = (this.#rest + text).split("\n\n");
    this.#rest = parts.pop();
    return parts.map((part) => this.#parse(part)).filter((event) => event !== null);
  }

  #parse(part) {
    let kind = "message";
    const data = [];
    for (const line of part.split("\n")) {
      const at = line.indexOf(":");
      if (at <= 0) continue; // a comment
      const field = line.slice(0, at);
      const value = line.slice(at + 1).replace(/^ /, "");
      if (field === "event") kind = value;
      else if (field === "id") this.#id = value;
      else if (field === "data") data.push(value);
    }
    return data.length === 0 ? null : { kind, id: this.#id, data: JSON.parse(data.join("\n")) };
  }
}
