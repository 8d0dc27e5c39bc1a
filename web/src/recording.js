/**
 * The player of a recorded run: pictures on two paths from noise, what each step adds, and the
 * number as it settles. A script by itself, without imports, so that pages opened as files run it.
 *
 * <conjure-recording data-sheet="ADDRESS"> holds a still and the numbers as JSON, which
 * book/recording.py writes. It plays when it comes into view; a reader who asked the system for less
 * motion sees the end, and plays it by the button.
 */

{
  const STEP = 220; // milliseconds
  const DRAW = 150;
  const PAUSES = { first: 900, last: 3500 }; // after the first draw, and at the end
  const ROUNDS = 3; // it plays by itself, then it rests
  const [WIDTH, HEIGHT] = [240, 96];

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function drawing(label) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    made.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", label);
    made.add = (name, attributes) => {
      const part = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) part.setAttribute(key, value);
      made.append(part);
      return part;
    };
    return made;
  }

  class Recording extends HTMLElement {
    connectedCallback() {
      if (this.run) return; // moved about in the page
      this.run = JSON.parse(this.querySelector("script").textContent);
      this.steps = this.run.by_step.length;
      this.draws = this.run.by_draw.length;
      this.last = this.steps + this.draws - 1; // a moment for each step, then one for each draw
      this.sheet = new Image();
      this.sheet.onload = () => this.begin();
      this.sheet.src = this.dataset.sheet;
    }

    /** Put the player in the place of the still, once there is something to play. */
    begin() {
      this.layOut();
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      this.rounds = still ? 0 : ROUNDS;
      this.show(still ? this.last : 0, still ? this.run.telling : undefined);
      new IntersectionObserver(([{ isIntersecting }]) => {
        if (!isIntersecting) this.stop();
        else if (this.rounds > 0 && !this.stopped) this.play();
      }).observe(this);
    }

    layOut() {
      const { prompts, columns, colours, side } = this.run;
      const quoted = prompts.map((prompt) => `“${prompt}”`);
      const named = columns.map((words) => words.replace("{0}", quoted[0]).replace("{1}", quoted[1]));
      this.canvases = [];
      const rows = quoted.map((prompt, i) => {
        const figures = named.map((name) => {
          const label = `the path of ${prompt}, ${name}`;
          const canvas = element("canvas", { width: side, height: side, role: "img", "aria-label": label });
          this.canvases.push(canvas);
          return element("figure", {}, canvas, element("figcaption", {}, name));
        });
        const head = element("p", { class: "recording-prompt" }, `The path of ${prompt}`);
        const row = element("div", { class: "recording-row" }, head, ...figures);
        row.style.setProperty("--prompt-colour", colours[i]);
        return row;
      });
      this.bars = drawing("What each step adds to the distance");
      this.settling = drawing("The distance after each draw of noise, with its interval");
      this.heading = element("p", { class: "recording-title" });
      this.number = element("p", { class: "recording-number" });
      this.below = element("p", { class: "recording-below" });
      this.button = element("button", { type: "button" }, "Play");
      this.button.onclick = () => (this.timer ? this.stop(true) : this.play(true));
      this.slider = element("input", { type: "range", min: 0, max: this.last, value: 0, "aria-label": "Moment of the recording" });
      this.slider.oninput = () => {
        this.stop(true);
        this.show(Number(this.slider.value));
      };
      this.replaceChildren(
        element("div", { class: "recording-paths" }, ...rows),
        element(
          "div",
          { class: "recording-numbers" },
          element("div", {}, element("p", { class: "recording-title" }, "What each step adds"), this.bars),
          element("div", {}, this.heading, this.number, this.below, this.settling),
        ),
        element("div", { class: "recording-controls" }, this.button, this.slider),
      );
      this.dataset.ready = this.last;
      this.drawBars();
    }

    drawBars() {
      const { by_step: adds } = this.run;
      const wide = WIDTH / adds.length;
      const most = Math.max(...adds);
      this.steplets = adds.map((value, i) => {
        const height = Math.max(1, (value / most) * (HEIGHT - 2));
        return this.bars.add("rect", { x: i * wide + 1, width: wide - 2, y: HEIGHT - height, height });
      });
    }

    /** The draws so far: dots, their mean as a line, its interval as a band. */
    drawSettling(draws) {
      const { by_draw: values, intervals } = this.run;
      const settled = intervals.slice(2).flat(); // the first ones would flatten all others
      const [low, high] = [Math.min(...values, ...settled), Math.max(...values, ...settled)];
      const wide = WIDTH / values.length;
      const y = (value) => {
        const share = (Math.min(high, Math.max(low, value)) - low) / (high - low || 1);
        return HEIGHT - 4 - share * (HEIGHT - 8);
      };
      this.settling.replaceChildren();
      for (let i = 1; i < draws; i++) {
        const [from, to] = intervals[i - 1];
        const place = { x: i * wide, width: wide, y: y(to), height: y(from) - y(to) };
        this.settling.add("rect", { class: "recording-band", ...place });
      }
      let sum = 0;
      const points = values.slice(0, draws).map((value, i) => {
        sum += value;
        return `${(i + 0.5) * wide},${y(sum / (i + 1))}`;
      });
      this.settling.add("polyline", { class: "recording-mean", points: points.join(" ") });
      values.slice(0, draws).forEach((value, i) =>
        this.settling.add("circle", { cx: (i + 0.5) * wide, cy: y(value), r: 2.5 }),
      );
    }

    /** Show one moment: so many steps of the first draw, then so many draws. */
    show(moment, pictured = Math.min(moment, this.steps - 1)) {
      const { side, unit, by_step: adds, by_draw: values, intervals } = this.run;
      this.moment = moment;
      this.slider.value = moment;
      const step = Math.min(moment, this.steps - 1);
      const draws = Math.max(0, moment - this.steps + 1);
      this.canvases.forEach((canvas, row) =>
        canvas.getContext("2d").drawImage(this.sheet, pictured * side, row * side, side, side, 0, 0, side, side),
      );
      this.steplets.forEach((bar, i) => bar.classList.toggle("recording-done", i <= step));
      const mean = values.slice(0, draws).reduce((a, b) => a + b, 0) / draws;
      const sum = adds.slice(0, step + 1).reduce((a, b) => a + b, 0);
      this.heading.textContent = draws
        ? draws === 1
          ? `The first of ${this.draws} draws`
          : `The mean of ${draws} draws`
        : `Step ${step + 1} of ${this.steps}, first draw`;
      this.number.textContent = `${Math.round(draws ? mean : sum)} ${unit}`;
      this.below.textContent = !draws ? "so far" : draws === 1 ? "other noise gives another number" : "95 % interval " + intervals[draws - 2].map(Math.round).join(" to ");
      this.slider.setAttribute("aria-valuetext", `${this.heading.textContent}: ${this.number.textContent}`);
      this.drawSettling(draws);
      this.dataset.moment = moment;
    }

    /** Go on, from the beginning where it is at its end. */
    play(asked = false) {
      if (asked) this.stopped = false;
      if (this.timer) return;
      if (this.moment === this.last) this.show(0);
      this.button.textContent = "Pause";
      this.next();
    }

    next() {
      const pause =
        this.moment < this.steps - 1 ? STEP : this.moment === this.steps ? PAUSES.first : this.moment === this.last ? PAUSES.last : DRAW;
      this.timer = setTimeout(() => {
        if (this.moment === this.last) {
          this.rounds -= 1;
          if (this.rounds <= 0) {
            this.stop();
            return;
          }
        }
        this.show(this.moment === this.last ? 0 : this.moment + 1);
        this.next();
      }, pause);
    }

    /** Rest; for good where the reader wished it. */
    stop(asked = false) {
      clearTimeout(this.timer);
      this.timer = null;
      if (asked) this.stopped = true;
      this.button.textContent = "Play";
    }
  }

  customElements.define("conjure-recording", Recording);
}
