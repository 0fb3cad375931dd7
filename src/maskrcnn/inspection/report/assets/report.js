"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = JSON.parse($("#data").textContent);
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const narrow = matchMedia("(max-width: 900px)");

  // Pictures are kept once, by name, and put where they are seen.
  const fill = (root) => {
    for (const image of $$("img[data-image]", root)) {
      image.src = data.images[image.dataset.image];
      image.removeAttribute("data-image");
    }
  };

  // The place in the address; a page shown inside another, as in a notebook, may have none.
  const address = (place) => { try { history.replaceState(null, "", `#${place}`); } catch { /* as it was */ } };
  const asked = () => { try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; } };

  // Light and dark: the system's wish, until a person chooses.
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
    root.classList.toggle("dark", dark);
    $("#theme").setAttribute("aria-pressed", String(dark));
  };
  system.addEventListener("change", paint);
  $("#theme").addEventListener("click", () => {
    root.dataset.theme = root.classList.contains("dark") ? "light" : "dark";
    paint();
  });
  paint();

  // The map: one drawing at a time, moved and enlarged through its viewBox.
  const views = new Map($$("#map > svg").map((svg) => [svg.dataset.view, svg]));
  const home = new Map([...views].map(([name, svg]) => [name, svg.getAttribute("viewBox").split(" ").map(Number)]));
  let view = "parts";
  let frame = 0;
  const now = (svg) => svg.getAttribute("viewBox").split(" ").map(Number);
  const setBox = (svg, box) => svg.setAttribute("viewBox", box.map((v) => v.toFixed(2)).join(" "));
  const moveTo = (svg, box) => {
    cancelAnimationFrame(frame);
    const from = now(svg);
    if (calm.matches) return setBox(svg, box);
    const start = performance.now();
    const tick = (time) => {
      const t = Math.min((time - start) / 350, 1);
      const ease = t < 0.5 ? 2 * t * t : 1 - (2 - 2 * t) ** 2 / 2;
      setBox(svg, from.map((v, i) => v + (box[i] - v) * ease));
      if (t < 1) frame = requestAnimationFrame(tick);
    };
    frame = requestAnimationFrame(tick);
  };
  const show = (name) => {
    if (!views.has(name)) return;
    if (name !== view) setBox(views.get(name), home.get(name));
    view = name;
    for (const [other, svg] of views) svg.toggleAttribute("hidden", other !== name);
    for (const tab of $$("#views [data-view]")) {
      tab.setAttribute("aria-selected", String(tab.dataset.view === name));
      tab.tabIndex = tab.dataset.view === name ? 0 : -1;
    }
  };
  const boxesOf = (keys, svg = views.get(view)) => $$(".box", svg).filter((b) => keys.includes(b.dataset.key));
  const around = (boxes, svg) => {
    const rects = boxes.map((b) => b.getBBox());
    const x1 = Math.min(...rects.map((r) => r.x)), y1 = Math.min(...rects.map((r) => r.y));
    const x2 = Math.max(...rects.map((r) => r.x + r.width)), y2 = Math.max(...rects.map((r) => r.y + r.height));
    const [, , w, h] = home.get(svg.dataset.view);
    const pad = 24;
    const width = Math.max(x2 - x1 + 2 * pad, w / 2.6), height = Math.max(y2 - y1 + 2 * pad, h / 2.6);
    return [(x1 + x2 - width) / 2, (y1 + y2 - height) / 2, width, height];
  };
  const frameOn = (keys) => {
    const svg = views.get(view);
    const boxes = boxesOf(keys);
    if (boxes.length) moveTo(svg, around(boxes, svg));
  };
  const zoom = (factor, point) => {
    cancelAnimationFrame(frame);
    const svg = views.get(view);
    const [x, y, w, h] = now(svg);
    const [, , fullW] = home.get(view);
    const scale = Math.min(Math.max(w * factor, fullW / 40), fullW * 1.5) / w;
    const [px, py] = point ?? [x + w / 2, y + h / 2];
    setBox(svg, [px - (px - x) * scale, py - (py - y) * scale, w * scale, h * scale]);
  };
  const at = (svg, event) => {
    const matrix = svg.getScreenCTM().inverse();
    const p = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
    return [p.x, p.y];
  };
  let dragged = false;
  for (const svg of views.values()) {
    const fingers = new Map();
    let last = 0;
    svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(Math.exp(event.deltaY * 0.0015), at(svg, event));
    }, { passive: false });
    svg.addEventListener("pointerdown", (event) => {
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      dragged = false;
      last = 0;
    });
    svg.addEventListener("pointermove", (event) => {
      if (!fingers.has(event.pointerId)) return;
      const [px, py] = fingers.get(event.pointerId);
      const dx = event.clientX - px, dy = event.clientY - py;
      if (!dragged && Math.hypot(dx, dy) < 5) return;
      if (!dragged) { dragged = true; svg.setPointerCapture(event.pointerId); svg.classList.add("drag"); }
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (fingers.size === 2) {
        const [a, b] = [...fingers.values()];
        const apart = Math.hypot(a[0] - b[0], a[1] - b[1]);
        if (last) zoom(last / apart, at(svg, { clientX: (a[0] + b[0]) / 2, clientY: (a[1] + b[1]) / 2 }));
        last = apart;
        return;
      }
      const scale = 1 / svg.getScreenCTM().a;
      const [x, y, w, h] = now(svg);
      cancelAnimationFrame(frame);
      setBox(svg, [x - dx * scale, y - dy * scale, w, h]);
    });
    const up = (event) => { fingers.delete(event.pointerId); svg.classList.remove("drag"); };
    svg.addEventListener("pointerup", up);
    svg.addEventListener("pointercancel", up);
  }

  // What is clicked on the map is told of at the right; a second click goes one level deeper.
  let chosen = "";
  const choose = (key, { scroll = true } = {}) => {
    const article = document.getElementById(`d-${key}`);
    if (!article) return;
    leaveWalk();
    chosen = key;
    for (const other of $$("#details > article")) other.toggleAttribute("hidden", other !== article);
    fill(article);
    for (const box of $$("#map .box")) box.classList.toggle("chosen", box.dataset.key === key);
    for (const item of $$(".object")) item.classList.toggle("chosen", item.dataset.go === key);
    $(".right").scrollTop = 0;
    if (narrow.matches && scroll) $(".right").scrollIntoView({ behavior: calm.matches ? "auto" : "smooth" });
    address(encodeURIComponent(key));
  };
  const deeper = (key) => {
    const next = data.inside[view]?.[key];
    if (!next) return false;
    show(next.view);
    frameOn(next.keys);
    return true;
  };
  $("#map").addEventListener("click", (event) => {
    if (dragged) return;
    const box = event.target.closest(".box");
    if (!box) return;
    const key = box.dataset.key;
    const again = key === chosen;
    choose(key, { scroll: view !== "parts" || again });
    if (view === "parts" || again) deeper(key);
  });
  $("#map").addEventListener("keydown", (event) => {
    const box = event.target.closest(".box");
    if (!box || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    const again = box.dataset.key === chosen;
    choose(box.dataset.key);
    if (view === "parts" || again) {
      deeper(box.dataset.key);
      boxesOf(data.inside.parts?.[box.dataset.key]?.keys ?? [])[0]?.focus();
    }
  });
  for (const tab of $$("#views [data-view]")) {
    tab.addEventListener("click", () => { show(tab.dataset.view); moveTo(views.get(view), home.get(view)); });
  }
  $("#views").addEventListener("keydown", (event) => {
    const tabs = $$("#views [data-view]"), there = tabs.indexOf(event.target);
    const next = { ArrowRight: there + 1, ArrowLeft: there - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (there < 0 || next === undefined) return;
    event.preventDefault();
    event.stopPropagation();  // elsewhere the arrows are the walk's
    const tab = tabs[(next + tabs.length) % tabs.length];
    tab.focus();
    tab.click();
  });
  $("#in").addEventListener("click", () => zoom(0.75));
  $("#out").addEventListener("click", () => zoom(1 / 0.75));
  $("#fit").addEventListener("click", () => moveTo(views.get(view), home.get(view)));
  const point = (key) => {
    const place = data.where[key];
    if (!place) return;
    if (!boxesOf([place.key]).length) show(place.view);
    if (view !== "parts") frameOn([place.key]);
    for (const box of boxesOf([place.key])) box.classList.add("chosen");
  };
  document.addEventListener("click", (event) => {
    const go = event.target.closest("[data-go]");
    if (!go) return;
    choose(go.dataset.go);
    if (go.dataset.deeper === undefined) point(go.dataset.go);
    else {
      show("blocks");
      deeper(go.dataset.go);
    }
  });

  // Shapes on a photo are buttons too, and have to be told so.
  document.addEventListener("keydown", (event) => {
    const shape = event.target.closest("svg.photo [data-go]");
    if (!shape || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    shape.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  });

  // A proposal, an object or an anchor is the same thing in all pictures: pointing at one lights up all.
  const light = (id) => {
    for (const element of $$("[data-obj]")) {
      element.classList.toggle("lit", id !== "" && element.dataset.obj.split(" ").includes(id));
    }
    for (const svg of $$("svg.photo")) svg.classList.toggle("has-lit", id !== "" && Boolean($(".lit", svg)));
  };
  document.addEventListener("pointerover", (event) => {
    const element = event.target.closest("[data-obj]");
    light(element ? element.dataset.obj.split(" ")[0] : "");
  });
  document.addEventListener("focusin", (event) => {
    const element = event.target.closest("[data-obj]");
    if (element) light(element.dataset.obj.split(" ")[0]);
  });

  // The walk.
  const walk = $("#walk");
  const steps = $$(".step", walk);
  let step = -1;
  const leaveWalk = () => {
    step = -1;
    walk.hidden = true;
    $("#details").hidden = false;
    $("#start").setAttribute("aria-pressed", "false");
    for (const box of $$("#map .lit")) box.classList.remove("lit");
  };
  const walkTo = (number) => {
    step = Math.min(Math.max(number, 0), steps.length - 1);
    walk.hidden = false;
    $("#details").hidden = true;
    $("#start").setAttribute("aria-pressed", "true");
    steps.forEach((s, i) => s.toggleAttribute("hidden", i !== step));
    fill(steps[step]);
    $$(".steps button", walk).forEach((dot, i) => {
      dot.classList.toggle("done", i < step);
      dot.toggleAttribute("aria-current", i === step);
    });
    $(".count", walk).textContent = `${step + 1} of ${steps.length}`;
    $("#previous").disabled = step === 0;
    $("#next").disabled = step === steps.length - 1;
    const { view: wanted, keys } = data.walk[step];
    show(wanted);
    for (const box of $$("#map .box")) {
      box.classList.remove("chosen");
      box.classList.toggle("lit", box.closest("svg").dataset.view === wanted && keys.includes(box.dataset.key));
    }
    frameOn(keys);
    $(".right").scrollTop = 0;
    if (narrow.matches) walk.scrollIntoView({ behavior: calm.matches ? "auto" : "smooth" });
    address(`walk-${step + 1}`);
  };
  $("#start").addEventListener("click", () => (step < 0 ? walkTo(0) : (leaveWalk(), choose(chosen || "overview"))));
  $("#next").addEventListener("click", () => walkTo(step + 1));
  $("#previous").addEventListener("click", () => walkTo(step - 1));
  $("#end").addEventListener("click", () => { leaveWalk(); choose(chosen || "overview"); });
  $$(".steps button", walk).forEach((dot, i) => dot.addEventListener("click", () => walkTo(i)));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.toLowerCase() === "w" && step < 0) return walkTo(0);
    if (step < 0) {
      if (event.key === "Escape") { show("parts"); moveTo(views.get("parts"), home.get("parts")); choose("overview"); }
      return;
    }
    if (event.key === "ArrowRight" || event.key === "PageDown") { event.preventDefault(); walkTo(step + 1); }
    if (event.key === "ArrowLeft" || event.key === "PageUp") { event.preventDefault(); walkTo(step - 1); }
    if (event.key === "Home") walkTo(0);
    if (event.key === "End") walkTo(steps.length - 1);
    if (event.key === "Escape") { leaveWalk(); choose(chosen || "overview"); }
  });

  $("#up").addEventListener("click", () => {
    $("#views").scrollIntoView({ behavior: calm.matches ? "auto" : "smooth" });
  });
  $("#print").addEventListener("click", () => print());
  addEventListener("beforeprint", () => {
    fill(walk);
    views.forEach((svg, name) => setBox(svg, home.get(name)));
  });

  // Where the address says, or at the beginning.
  const start = asked();
  show("parts");
  if (/^walk-\d+$/.test(start)) walkTo(Number(start.slice(5)) - 1);
  else if (document.getElementById(`d-${start}`)) {
    choose(start, { scroll: false });
    point(start);
  } else choose("overview", { scroll: false });
  fill($(".objects"));
  fill($("header.top"));
  root.classList.add("ready");
})();
