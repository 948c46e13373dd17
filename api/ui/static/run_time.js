// The run as it was: a slider over its events. The server folds them; at each step it is asked how all nodes stood.
const STEPS = 120, EVERY_MS = 110;

export class Time {
  constructor(address, { past, now }) {
    this.address = address;
    this.past = past;
    this.now = now;
    this.slider = document.getElementById("seq");
    this.when = document.getElementById("when");
    this.playButton = document.getElementById("play");
    this.nowButton = document.getElementById("now");
    this.live = true;
    this.slider.addEventListener("input", () => { this.stop(); this.go(Number(this.slider.value)); });
    this.nowButton.addEventListener("click", () => { this.stop(); this.back(); });
    this.playButton.addEventListener("click", () => (this.timer ? this.stop() : this.play()));
  }

  /** There are so many events by now. */
  head(seq) {
    if (seq <= Number(this.slider.max)) return;
    this.slider.max = seq;
    if (this.live) this.slider.value = seq;
  }

  /** Show the run as it was at event `seq`; asked for one at a time, so that the last one wanted is shown last. */
  async go(seq) {
    this.wanted = seq;
    this.#away();
    if (this.asking) return this.asking;
    this.asking = (async () => {
      while (this.wanted !== null) {
        const next = this.wanted;
        this.wanted = null;
        try {
          const state = await fetch(`${this.address}/state?seq=${next}`).then((answer) => (answer.ok ? answer.json() : null));
          if (state && !this.live) { await this.past(state); this.#tell(state); }
        } catch { /* the next step asks again */ }
      }
    })();
    await this.asking;
    this.asking = null;
  }

  #away() {
    this.live = false;
    this.nowButton.setAttribute("aria-pressed", "false");
    document.body.classList.add("past");
  }

  back() {
    this.live = true;
    this.wanted = null;
    this.slider.value = this.slider.max;
    this.nowButton.setAttribute("aria-pressed", "true");
    document.body.classList.remove("past");
    this.when.textContent = "";
    this.slider.removeAttribute("aria-valuetext");
    this.now();
  }

  #tell(state) {
    const at = state.at === null ? "" : new Date(state.at).toLocaleTimeString();
    const text = state.type === null ? "before the first event" : `#${state.seq} ${at} ${state.type}${state.node ? ` ${state.node}` : ""}`;
    this.when.textContent = text;
    this.when.title = text;
    this.slider.setAttribute("aria-valuetext", text);
  }

  play() {
    const last = Number(this.slider.max);
    const step = Math.max(1, Math.ceil(last / STEPS));
    let at = this.live || Number(this.slider.value) >= last ? 0 : Number(this.slider.value);
    this.#pressed(true);
    const next = async () => {
      if (!this.timer) return;
      this.slider.value = at;
      await this.go(at);
      if (at >= last) { this.stop(); this.back(); return; }
      at = Math.min(last, at + step);
      if (this.timer) this.timer = setTimeout(next, last <= 40 ? EVERY_MS * 3 : EVERY_MS);
    };
    this.timer = setTimeout(next, 0);
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = null;
    this.#pressed(false);
  }

  #pressed(on) {
    this.playButton.setAttribute("aria-pressed", String(on));
    this.playButton.querySelector("span").textContent = on ? "Stop" : "Play";
  }
}
