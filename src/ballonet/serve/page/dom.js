// Making elements. Text is only ever set as text, never as HTML.

export const $ = (id) => document.getElementById(id);

/** A new element. Keys of `attributes` that are functions are listeners. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Set the text of an element if it differs: what is selected or read aloud stays undisturbed. */
export function setText(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

/** Fill a list of terms and values. */
export function showFigures(place, figures) {
  figures.forEach(([term, value, meaning], at) => {
    let group = place.children[at];
    if (!group) {
      group = element("div", {}, element("dt"), element("dd"));
      place.append(group);
    }
    setText(group.firstChild, term);
    setText(group.lastChild, value);
    if (meaning) group.title = meaning;
  });
  while (place.children.length > figures.length) place.lastChild.remove();
}

/** Ask before something is done; resolves to whether it was confirmed. */
export function confirmed(question, answer) {
  const dialog = $("confirm");
  $("confirm-text").textContent = question;
  $("confirm-ok").textContent = answer;
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true });
  });
}
