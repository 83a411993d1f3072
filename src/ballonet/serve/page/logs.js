// The output of a sandbox's own command, as it is written.

import { events, of } from "./api.js";
import { $, element } from "./dom.js";
import { plain } from "./format.js";

const TAIL = 200;
const MOST_PIECES = 2000;

export class LogView {
  #following = null;

  /** Follow the log of this sandbox; null: of none. */
  async follow(name) {
    this.#following?.abort();
    this.#following = null;
    if (name === null) return;
    const stop = (this.#following = new AbortController());
    const place = $("logs");
    place.replaceChildren();
    place.hidden = false;
    $("logs-note").textContent = `The last ${TAIL} lines, and what follows. Lines of standard error begin with "!".`;
    try {
      for await (const { kind, data } of events(of(name, `/logs?tail=${TAIL}&follow=true`), { signal: stop.signal })) {
        if (kind === "end") $("logs-note").textContent = "The sandbox's command has ended; this is its output.";
        else this.#add(place, kind, data);
      }
    } catch (error) {
      if (stop.signal.aborted) return;
      $("logs-note").textContent = error.message;
      place.hidden = place.childElementCount === 0;
    }
  }

  #add(place, kind, data) {
    const atEnd = place.scrollHeight - place.scrollTop - place.clientHeight < 8;
    const text = plain(data.text ?? new TextDecoder().decode(bytesOf(data.base64)));
    const line = data.whole && !text.endsWith("\n") ? `${text}\n` : text;
    place.append(element("span", { class: kind, title: data.at }, kind === "stderr" ? `! ${line}` : line));
    while (place.childElementCount > MOST_PIECES) place.firstChild.remove();
    if (atEnd) place.scrollTop = place.scrollHeight;
  }
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}
