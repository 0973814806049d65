"use strict";
for (const box of document.querySelectorAll("input[type=search]")) {
  const place = document.getElementById(box.dataset.of), all = [...place.querySelectorAll("li")];
  const told = document.getElementById(box.getAttribute("aria-describedby"));
  box.hidden = box.labels[0].hidden = false;
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/);
    let left = 0;
    if (box.value) place.querySelectorAll("details").forEach(one => one.open = true);
    for (const one of all) {
      const found = words.every(word => one.textContent.toLowerCase().includes(word));
      one.hidden = !found;
      left += found;
    }
    told.textContent = box.value ? `${left} of ${all.length} shown` : "";
  });
}
// What is printed is unfolded first.
addEventListener("beforeprint", () => document.querySelectorAll("details:not(.long)").forEach(one => one.open = true));
const live = document.getElementById("live");
if (live) {
  const names = () => [...document.querySelectorAll("details[open]")].map(one => one.id);
  try {
    for (const name of JSON.parse(sessionStorage.getItem("open") || "[]")) document.getElementById(name)?.setAttribute("open", "");
  } catch {}
  const every = Number(live.dataset.every), written = Number(live.dataset.written);
  setInterval(() => {
    const age = Math.round(Date.now() / 1000 - written);
    if (age > 6 * every + 60) live.textContent = `Nothing new for ${Math.round(age / 60)} minutes: the run may have been stopped.`;
    const busy = document.hidden || [...document.querySelectorAll("input[type=search]")].some(one => one.value || one === document.activeElement);
    if (!busy && String(getSelection()) === "") {
      try { sessionStorage.setItem("open", JSON.stringify(names())); } catch {}
      location.reload();
    }
  }, every * 1000);
}
