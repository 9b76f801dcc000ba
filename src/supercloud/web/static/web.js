// What changed is seen moving, and said. The pages come from the server; htmx puts them in their place.
"use strict";
{
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let before = new Map(); // tile -> where it was, and what was said of it

  // What is pressed stays where it is until it is let go, or a click would be lost on what took its place.
  let pressed = false;
  let missed = false;
  addEventListener("pointerdown", () => (pressed = true), true);
  const released = () =>
    setTimeout(() => {
      pressed = false;
      const live = document.getElementById("live");
      if (missed && live) htmx.trigger(live, "sse:change");
      missed = false;
    });
  addEventListener("pointerup", released, true);
  addEventListener("pointercancel", released, true);

  const tiles = () => document.querySelectorAll("#live [data-tile]");

  addEventListener("htmx:beforeSwap", (event) => {
    if (pressed) {
      missed = true;
      event.detail.shouldSwap = false;
      return;
    }
    before = new Map();
    for (const tile of tiles())
      before.set(tile.dataset.tile, { box: tile.getBoundingClientRect(), said: tile.dataset.said });
  });

  addEventListener("htmx:afterSwap", () => {
    const said = [];
    for (const tile of tiles()) {
      const was = before.get(tile.dataset.tile);
      if (was?.said !== tile.dataset.said) said.push(tile.dataset.said);
      if (!still.matches) move(tile, was);
    }
    if (said.length) document.getElementById("said").textContent = [...new Set(said)].slice(0, 5).join("; ");
  });

  function move(tile, was) {
    if (!was) {
      if (before.size) tile.animate({ opacity: [0, 1] }, { duration: 300 });
      return;
    }
    const is = tile.getBoundingClientRect();
    const [x, y] = [was.box.x - is.x, was.box.y - is.y];
    if (Math.abs(x) < 1 && Math.abs(y) < 1) return;
    tile.classList.add("flying");
    const flight = tile.animate(
      [{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }],
      { duration: 600, easing: "cubic-bezier(.3, .7, .2, 1)" },
    );
    flight.onfinish = () => tile.classList.remove("flying");
  }
}
