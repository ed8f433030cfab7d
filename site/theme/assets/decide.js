// See it decide: samples leave at their exits as one chooses exit policies and drags their knobs. Everything is computed
// here, in float64, from what the exits said (`window.eelitSeen`, see site/generator/seen.py), by the formulas of
// eelit.methods.policies; tests/browser/test_seen.py asks both. Without this script a table of the exits stays.
(() => {
  "use strict";
  const place = document.querySelector(".ee-decide");
  const stored = window.eelitSeen;
  if (!place || !stored) return;
  const told = JSON.parse(document.querySelector(".ee-rules").textContent);

  // What exits said: numbers of one exit and sample stand at exit * samples + sample.

  // Bytes of float16, the lowest first, as numbers.
  function halves(text) {
    const bytes = atob(text);
    return Float64Array.from({ length: bytes.length / 2 }, (_, k) => {
      const bits = bytes.charCodeAt(2 * k) | (bytes.charCodeAt(2 * k + 1) << 8);
      const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
      return (bits & 0x8000 ? -1 : 1) * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
    });
  }

  const argmax = (values) => values.reduce((best, value, k) => (value > values[best] ? k : best), 0); // of equals the first
  const sum = (values) => values.reduce((total, value) => total + value, 0);

  // log softmax(z) = z - max z - ln Σ exp(z - max z)
  function logSoftmax(z) {
    const most = Math.max(...z);
    const log = Math.log(sum(z.map((value) => Math.exp(value - most))));
    return z.map((value) => value - most - log);
  }
  // KL(p || q) = Σ p (ln p - ln q), from logarithms
  const divergence = (logP, logQ) => sum(logP.map((value, c) => (Math.exp(value) ? Math.exp(value) * (value - logQ[c]) : 0)));
  const sigmoid = (z) => 1 / (1 + Math.exp(-z));

  // All that rules compare, of every exit and sample.
  function network(name) {
    const data = stored[name];
    const [E, N, C] = [data.exits, data.samples, data.classes.length];
    const z = halves(data.logits);
    const logits = (e, i) => Array.from(z.subarray((e * N + i) * C, (e * N + i + 1) * C));
    const names = ["predicted", "first", "second", "confidence", "margin", "entropy", "distance", "together", "votes"];
    const s = Object.fromEntries(names.map((each) => [each, new Float64Array(E * N)]));
    const probabilities = [];
    for (let i = 0; i < N; i++) {
      const total = new Array(C).fill(0); // of the probabilities of all exits so far
      const tally = new Array(C).fill(0); // votes of all exits so far
      let before = null;
      for (let e = 0; e < E; e++) {
        const [at, own] = [e * N + i, logits(e, i)];
        const logP = logSoftmax(own);
        const p = logP.map(Math.exp);
        const best = argmax(own);
        const second = Math.max(...own.filter((_, c) => c !== best));
        const likeliest = argmax(p);
        probabilities[at] = p;
        s.predicted[at] = best;
        s.first[at] = own[best];
        s.second[at] = second;
        s.confidence[at] = Math.max(...p);
        s.margin[at] = p[likeliest] - Math.max(...p.filter((_, c) => c !== likeliest));
        s.entropy[at] = -sum(p.map((value, c) => (value ? value * logP[c] : 0))); // -Σ p ln p, in nats
        s.distance[at] = before ? Math.max(0, divergence(before, logP)) : NaN;
        p.forEach((value, c) => (total[c] += value));
        s.together[at] = argmax(total);
        tally[best] += 1;
        s.votes[at] = Math.max(...tally);
        before = logP;
      }
    }
    const full = sum(data.costs[E - 1]) / N;
    return { ...data, name, E, N, C, s, probabilities, share: (e, i) => data.costs[e][i] / full };
  }

  // Exit rules: the values of their knob, the most eager first; where a value stops a sample; what it is called.

  const STEPS = 60; // values of a threshold, beside its two ends
  const GAP = 1e-5; // what two scores must differ by for a threshold to lie between them

  // The number of fewest digits that lies well between two others, so that what is shown is what is compared.
  function short(low, high) {
    const middle = (low + high) / 2;
    for (let digits = 0; digits < 17; digits++) {
      const found = Number(middle.toFixed(digits));
      if (Math.abs(found - middle) <= (high - low) / 4) return found;
    }
    return middle;
  }

  // Thresholds that lie between the scores of all exits but the last, spread evenly over them, rising.
  function between(scores, N) {
    const known = scores.slice(0, scores.length - N).filter((value) => !Number.isNaN(value)).sort();
    const found = new Set();
    for (let step = 1; step <= STEPS; step++) {
      let k = Math.floor(((known.length - 1) * step) / (STEPS + 1));
      while (k + 1 < known.length && known[k + 1] - known[k] <= GAP) k++;
      if (k + 1 < known.length) found.add(short(known[k], known[k + 1]));
    }
    return [...found].sort((a, b) => a - b);
  }

  const rising = (score, [first, never]) => (net) => [first, ...between(score(net.s), net.N), never];
  const falling = (score, [first, never]) => (net) => [first, ...between(score(net.s), net.N).reverse(), never];
  const counting = (least, most) => (net) => Array.from({ length: most(net) - least + 1 }, (_, k) => least + k);
  const flags = (net, holds) => Uint8Array.from({ length: net.E * net.N }, (_, at) => (holds(at) ? 1 : 0));

  // How many times in a row something held up to each exit.
  function inARow(net, holds) {
    const count = new Int32Array(net.E * net.N);
    for (let at = 0; at < count.length; at++) count[at] = holds(at) ? (at < net.N ? 0 : count[at - net.N]) + 1 : 0;
    return count;
  }

  // The answer of a rule that has one of its own where nobody stopped early; elsewhere that of the exit.
  const atLast = (last) => (net, e, i) => (e < net.E - 1 ? net.s.predicted[e * net.N + i] : last(net, i));
  const column = (net, values, i) => Array.from({ length: net.E }, (_, e) => values[e * net.N + i]);

  // The majority of all exits; of equals the one that a deeper exit voted for last.
  function majority(net, i) {
    const said = column(net, net.s.predicted, i);
    const votes = (e) => said.slice(0, e + 1).filter((other) => other === said[e]).length;
    return said.reduce((best, _, e) => (votes(e) >= best.most ? { most: votes(e), answer: said[e] } : best), { most: 0 }).answer;
  }
  const surest = (net, i) => net.s.predicted[argmax(column(net, net.s.confidence, i)) * net.N + i];

  const uncertainty = (net) => net.s.entropy.map((value) => value / Math.log(net.C)); // 0 certain, 1 uniform
  const RULES = {
    "max-confidence": {
      values: rising((s) => s.confidence, [0, 1.1]),
      stops: (net, t) => flags(net, (at) => net.s.confidence[at] >= t),
      tell: (t) => `the largest probability ≥ ${t}`,
    },
    entropy: {
      values: falling((s) => s.entropy, [Infinity, 0]),
      stops: (net, t) => flags(net, (at) => net.s.entropy[at] < t),
      tell: (t) => `the entropy < ${t} nats`,
    },
    margin: {
      values: rising((s) => s.margin, [0, 1.1]),
      stops: (net, t) => flags(net, (at) => net.s.margin[at] >= t),
      tell: (t) => `the two largest probabilities are ≥ ${t} apart`,
    },
    "raw-margin": {
      values: rising((s) => s.first.map((value, at) => value - s.second[at]), [0, Infinity]),
      stops: (net, t) => flags(net, (at) => net.s.first[at] - net.s.second[at] >= t),
      tell: (t) => `the two largest logits are ≥ ${t} apart`,
    },
    activation: {
      values: rising((s) => s.first, [-Infinity, Infinity]),
      stops: (net, t) => flags(net, (at) => net.s.first[at] > t),
      tell: (t) => `the largest logit > ${t}`,
    },
    "sole-class": {
      values: rising((s) => s.first.map(sigmoid), [0.5, 1.1]),
      stops: (net, t) => flags(net, (at) => sigmoid(net.s.first[at]) >= t && sigmoid(net.s.second[at]) < t),
      tell: (t) => `the sigmoid is ≥ ${t} for exactly one class`,
    },
    patience: {
      values: counting(0, (net) => net.E - 1),
      stops(net, patience) {
        const { predicted } = net.s;
        const agreed = inARow(net, (at) => at >= net.N && predicted[at] === predicted[at - net.N]);
        return flags(net, (at) => agreed[at] >= patience);
      },
      tell: (patience) => `the answer was repeated ${times(patience)} in a row`,
    },
    "flexible-patience": {
      values: falling((s) => s.distance, [Infinity, 0]),
      stops: (net, t) => flags(net, (at) => net.s.distance[at] < t), // once: NaN at the first exit stops nobody
      tell: (t) => `the divergence from the exit before < ${t} nats, once`,
    },
    "patient-confidence": {
      values: (net) => [2, ...between(uncertainty(net), net.N).reverse(), 0],
      stops(net, t) {
        const found = uncertainty(net);
        const sure = inARow(net, (at) => found[at] < t);
        return flags(net, (at) => sure[at] >= 2);
      },
      tell: (t) => `the entropy < ${t} of the largest possible, at 2 exits in a row`,
    },
    voting: {
      values: counting(1, (net) => net.E),
      stops: (net, votes) => flags(net, (at) => net.s.votes[at] >= votes),
      answer: atLast(majority),
      tell: (votes) => `one class has ${votes} ${Number(votes) === 1 ? "vote" : "votes"}`,
    },
    surest: {
      values: rising((s) => s.confidence, [0, 1.1]),
      stops: (net, t) => flags(net, (at) => net.s.confidence[at] >= t),
      answer: atLast(surest),
      tell: (t) => `the largest probability ≥ ${t}`,
    },
    "mean-so-far": {
      values: counting(0, (net) => net.E - 1),
      stops: (net, exit) => flags(net, (at) => at >= exit * net.N),
      answer: (net, e, i) => net.s.together[e * net.N + i],
      tell: (exit) => `exit ${exit + 1}, mean of the probabilities so far`,
    },
    static: {
      values: counting(0, (net) => net.E - 1),
      stops: (net, exit) => flags(net, (at) => at >= exit * net.N),
      tell: (exit) => `exit ${exit + 1}`,
    },
  };
  const times = (count) => (Number(count) === 1 ? "once" : `${count} times`);

  // At which exit a rule stops each sample, what it answers there, and what that costs and is worth.
  function decide(net, name, value) {
    const rule = RULES[name];
    const stop = rule.stops(net, value);
    const exits = Array.from({ length: net.N }, (_, i) => {
      let e = 0;
      while (e < net.E - 1 && !stop[e * net.N + i]) e++;
      return e;
    });
    const answers = exits.map((e, i) => (rule.answer ? rule.answer(net, e, i) : net.s.predicted[e * net.N + i]));
    const right = answers.map((answer, i) => answer === net.labels[i]);
    const cost = sum(exits.map((e, i) => net.share(e, i))) / net.N;
    return { value, exits, answers, right, cost, accuracy: right.filter(Boolean).length / net.N };
  }

  const networks = new Map();
  const curves = new Map(); // every value of a rule's knob, decided
  function networkOf(name) {
    if (!networks.has(name)) networks.set(name, network(name));
    return networks.get(name);
  }
  function curve(name, rule) {
    const key = `${name} ${rule}`;
    const net = networkOf(name);
    if (!curves.has(key)) curves.set(key, RULES[rule].values(net).map((value) => decide(net, rule, value)));
    return curves.get(key);
  }
  window.eelitDecide = { rules: Object.keys(RULES), curve };

  // What is chosen.

  const form = place.querySelector("form");
  const state = { data: form.elements.data.value, a: { rule: "max-confidence", k: 0 }, b: { rule: "patience", k: 0 }, picked: null, stage: null, all: false };
  const SIDES = ["a", "b"];
  const other = (side) => (side === "a" ? "b" : "a");
  const settings = (side) => curve(state.data, state[side].rule);
  const now = (side) => settings(side)[state[side].k];
  const closest = (numbers, wanted) => numbers.reduce((best, number, k) => (Math.abs(number - wanted) < Math.abs(numbers[best] - wanted) ? k : best), 0);
  function spend(side, cost) {
    state[side].k = closest(settings(side).map((setting) => setting.cost), cost);
  }

  // At equal cost the other side follows; of a side with few settings, also the one that was asked for.
  function follow(leader) {
    if (form.elements.lock.checked) spend(other(leader), now(leader).cost);
  }
  function meet(side, cost) {
    spend(side, cost);
    if (settings(side).length < settings(other(side)).length) follow(side);
  }

  // What is shown.

  const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}\u00a0%`;
  function element(kind, name, ...content) {
    const made = document.createElement(kind);
    if (name) made.className = name;
    made.append(...content);
    return made;
  }
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  const views = Object.fromEntries(SIDES.map((side) => [side, sideView(side)]));
  const status = place.querySelector(".ee-status");
  const chosen = place.querySelector(".ee-chosen");
  const list = place.querySelector(".ee-samples");
  const more = place.querySelector(".ee-all");
  const run = place.querySelector(".ee-start");

  // A picture of a sample, or nothing for a sentence.
  function paint(target, i, size) {
    const net = networkOf(state.data);
    if (!net.picture) return target;
    const [x, y] = [i % net.across, Math.floor(i / net.across)];
    target.style.backgroundImage = `url("${net.picture}")`;
    target.style.backgroundSize = `${net.across * size}rem auto`;
    target.style.backgroundPosition = `${-x * size}rem ${-y * size}rem`;
    return target;
  }

  function sideView(side) {
    const section = place.querySelector(`.ee-side[data-side="${side}"]`);
    const board = section.querySelector(".ee-board");
    const part = (name) => section.querySelector(name);
    const view = { section, board, rule: part("select"), knob: part("input"), setting: part("output"), says: part(".ee-says"), figures: part(".ee-figures"), tiles: [], rows: [], made: "" };

    // One row for each exit, and one tile for each sample.
    view.make = () => {
      const net = networkOf(state.data);
      view.made = state.data;
      view.rows = Array.from({ length: net.E }, (_, e) => {
        const bar = element("span", "ee-fill");
        const head = element("p", "ee-exit", element("strong", "", `Exit ${e + 1}`), " ", element("span", ""), element("span", "ee-track-of", bar));
        const crowd = element("div", "ee-crowd");
        return { head, bar, said: head.children[1], crowd, part: element("div", "ee-row", head, crowd) };
      });
      view.tiles = Array.from({ length: net.N }, (_, i) => {
        const tile = paint(element("button", "ee-tile"), i, 1.4);
        tile.type = "button";
        tile.tabIndex = -1;
        tile.dataset.sample = i;
        return tile;
      });
      board.replaceChildren(...view.rows.map((row) => row.part));
    };

    // Tiles that change their exit move there.
    view.put = (places) => {
      const moved = view.tiles.filter((tile, i) => tile.parentElement && tile.parentElement !== view.rows[places[i]].crowd);
      const from = still.matches ? [] : moved.map((tile) => tile.getBoundingClientRect());
      view.rows.forEach((row, e) => {
        const wanted = view.tiles.filter((_, i) => places[i] === e);
        if (wanted.length !== row.crowd.children.length || wanted.some((tile, k) => tile !== row.crowd.children[k])) row.crowd.replaceChildren(...wanted);
      });
      if (!from.length) return;
      board.dataset.moves = "";
      const moves = moved.map((tile, k) => {
        const to = tile.getBoundingClientRect();
        const shift = `translate(${from[k].left - to.left}px, ${from[k].top - to.top}px)`;
        return tile.animate([{ transform: shift }, { transform: "none" }], { duration: 400, easing: "ease-out" }).finished;
      });
      view.moves = Promise.allSettled(moves);
      const last = view.moves;
      last.then(() => last === view.moves && delete board.dataset.moves);
    };
    return view;
  }

  const noun = () => (networkOf(state.data).texts ? "sentence" : "picture");

  function label(side, i) {
    const [net, done] = [networkOf(state.data), now(side)];
    const [e, answer] = [done.exits[i], done.answers[i]];
    const sure = percent(net.probabilities[e * net.N + i][answer], 0);
    return `${noun()} ${i + 1}: leaves at exit ${e + 1} as ${net.classes[answer]}, ${sure}, ${done.right[i] ? "right" : "wrong"}`;
  }

  function drawSide(side) {
    const [view, net, done] = [views[side], networkOf(state.data), now(side)];
    if (view.made !== state.data) view.make();
    const rule = state[side].rule;
    const [k, last] = [state[side].k, settings(side).length - 1];
    view.rule.value = rule;
    view.knob.max = last;
    view.knob.value = k;
    const never = done.exits.every((e) => e === net.E - 1) && k === last;
    const sentence = ["static", "mean-so-far"].includes(rule)
      ? `Everything stops at ${RULES[rule].tell(done.value)}`
      : never
        ? "Never stops early"
        : `Stops when ${RULES[rule].tell(String(done.value).replace("-", "\u2212").replace("Infinity", "∞"))}`;
    view.setting.textContent = sentence;
    view.knob.setAttribute("aria-valuetext", `${sentence}; cost ${percent(done.cost)}, accuracy ${percent(done.accuracy)}`);
    const { says, source, page } = told[rule];
    const link = element("a", "", source);
    link.href = page;
    view.says.replaceChildren(says, ...(page ? [" (", link, ")"] : []));
    const right = done.right.filter(Boolean).length;
    const mean = sum(done.exits) / net.N + 1;
    const facts = [["accuracy", percent(done.accuracy), `${right} of ${net.N} right`], ["cost", percent(done.cost), "of the last exit’s"], ["mean exit", mean.toFixed(2), `of ${net.E}`]];
    view.figures.replaceChildren(...facts.map(([name, value, more]) => element("div", "", element("dt", "", name), element("dd", "", element("strong", "", value), ` ${more}`))));
    drawBoard(side, net, done);
  }

  function drawBoard(side, net, done) {
    const view = views[side];
    const stage = state.stage ?? net.E - 1;
    view.put(done.exits.map((e) => Math.min(e, stage)));
    view.tiles.forEach((tile, i) => {
      const going = done.exits[i] > stage;
      tile.className = ["ee-tile", net.picture ? "is-picture" : "", going ? "is-going" : done.right[i] ? "is-right" : "is-wrong", i === state.picked ? "is-picked" : ""].filter(Boolean).join(" ");
      if (net.marks) tile.textContent = going ? "·" : net.marks[done.answers[i]];
      tile.setAttribute("aria-label", going ? `${noun()} ${i + 1}: goes on` : label(side, i));
      tile.setAttribute("aria-pressed", String(i === state.picked));
      tile.tabIndex = i === (state.picked ?? 0) ? 0 : -1;
    });
    view.rows.forEach((row, e) => {
      const leaving = done.exits.flatMap((exit, i) => (exit === e ? [i] : []));
      const right = leaving.filter((i) => done.right[i]).length;
      const on = e === stage && state.stage !== null ? done.exits.filter((exit) => exit > e).length : 0;
      const shown = e <= stage;
      row.said.textContent = !shown ? "" : (leaving.length ? `${leaving.length} leave (${percent(leaving.length / net.N)}), ${right} right` : "nobody leaves") + (on ? `, ${on} go on` : "");
      row.bar.style.width = `${shown ? (100 * leaving.length) / net.N : 0}%`;
    });
  }

  // How much two policies differ on a sample: 0 one is right and one wrong, 1 other answers, 2 other exits, 3 not at all.
  function difference(i) {
    const [a, b] = [now("a"), now("b")];
    if (a.right[i] !== b.right[i]) return 0;
    if (a.answers[i] !== b.answers[i]) return 1;
    return a.exits[i] !== b.exits[i] ? 2 : 3;
  }

  // Two-sided sign test: how likely so uneven a split of n samples is if each falls to either side by chance.
  function signTest(one, two) {
    const n = one + two;
    let [term, total] = [0.5 ** n, 0];
    for (let k = 0; k <= Math.min(one, two); k++) {
      total += term;
      term *= (n - k) / (k + 1);
    }
    return Math.min(1, 2 * total);
  }

  function drawStatus(tiers) {
    const [net, a, b] = [networkOf(state.data), now("a"), now("b")];
    const onlyA = a.right.filter((right, i) => right && !b.right[i]).length;
    const onlyB = b.right.filter((right, i) => right && !a.right[i]).length;
    const count = (tier) => tiers.filter((each) => each === tier).length;
    const apart = Math.abs(a.cost - b.cost);
    const cost = apart < 0.0005 ? "They cost the same." : `Their costs are ${(100 * apart).toFixed(1)} points apart${form.elements.lock.checked ? ", the closest that these settings allow" : ""}.`;
    const p = signTest(onlyA, onlyB);
    const worth = onlyA + onlyB === 0 ? "Each is right where the other is." : `Only A is right on ${onlyA} ${onlyA === 1 ? noun() : `${noun()}s`}, only B on ${onlyB}: ${p < 0.05 ? "more than chance would explain" : "no more than chance explains"} (sign test, p = ${p < 0.001 ? "less than 0.001" : p.toFixed(p < 0.1 ? 3 : 2)}).`;
    status.textContent = `${cost} ${worth} Both are wrong with different answers on ${count(1)}; on ${count(2)} they give the same answer at different exits; on ${count(3)} of ${net.N} they do the same.`;
  }

  // What every exit said of one sample, and what came of it under both policies.
  function card(i) {
    const net = networkOf(state.data);
    const reached = Math.max(...SIDES.map((side) => now(side).exits[i]));
    const cells = Array.from({ length: net.E }, (_, e) => {
      const at = e * net.N + i;
      const answer = net.s.predicted[at];
      const right = answer === net.labels[i];
      const here = SIDES.filter((side) => now(side).exits[i] === e);
      const cell = element("li", `ee-said-at ${e > reached ? "is-unseen" : right ? "is-right" : "is-wrong"}`, element("span", "ee-muted", `exit ${e + 1}`), element("span", "", net.classes[answer]));
      cell.append(element("span", "", `${percent(net.s.confidence[at], 0)} ${right ? "✓ right" : "✕ wrong"}`));
      cell.append(element("span", "ee-leaves", e > reached ? "not run" : here.length ? `${here.map((side) => side.toUpperCase()).join(" and ")} ${here.length > 1 ? "leave" : "leaves"}` : ""));
      return cell;
    });
    const ends = SIDES.map((side) => {
      const done = now(side);
      return element("li", "", element("strong", "", side.toUpperCase()), ` ${label(side, i).replace(/^[^:]*: /, "")}, at ${percent(net.costs[done.exits[i]][i] / net.costs[net.E - 1][i], 0)} of the cost`);
    });
    const what = net.texts ? element("blockquote", "", net.texts[i]) : paint(element("div", "ee-photo"), i, 5);
    if (!net.texts) {
      what.setAttribute("role", "img");
      what.setAttribute("aria-label", `Picture ${i + 1}: ${net.classes[net.labels[i]]}`);
    }
    const facts = element("div", "", element("p", "", element("strong", "", `${noun()[0].toUpperCase()}${noun().slice(1)} ${i + 1}`), `, in truth ${net.classes[net.labels[i]]}`), ...(net.texts ? [what] : []), element("ul", "ee-ends", ...ends));
    const strip = element("ol", "ee-strip", ...cells);
    strip.style.setProperty("--ee-exits", net.E);
    return element("div", net.texts ? "ee-sample" : "ee-sample has-picture", ...(net.texts ? [] : [what]), facts, strip);
  }

  const SOME = 10; // samples in the list, unless all are asked for
  let waiting = 0;

  function drawList(order) {
    const shown = state.all ? order : order.slice(0, SOME);
    list.replaceChildren(...shown.map((i) => element("li", "", card(i))));
    more.textContent = state.all ? `Show the first ${SOME} only` : `Show all ${order.length} ${noun()}s`;
    list.removeAttribute("aria-busy");
    keep();
  }

  function draw() {
    const net = networkOf(state.data);
    const tiers = Array.from({ length: net.N }, (_, i) => difference(i));
    const order = tiers.map((_, i) => i).sort((i, j) => tiers[i] - tiers[j] || i - j);
    if (state.picked === null || state.picked >= net.N) state.picked = order[0];
    SIDES.forEach(drawSide);
    drawStatus(tiers);
    drawPicture(net);
    chosen.replaceChildren(card(state.picked));
    list.setAttribute("aria-busy", "true");
    clearTimeout(waiting); // while a knob is dragged the list waits
    waiting = setTimeout(drawList, 100, order);
  }

  // Accuracy against cost: all settings of both policies, and where they stand.
  const picture = place.querySelector(".ee-plane");
  const SVG = "http://www.w3.org/2000/svg";
  function drawn(kind, attributes, text) {
    const made = document.createElementNS(SVG, kind);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text) made.textContent = text;
    return made;
  }
  function drawPicture(net) {
    const every = SIDES.map((side) => [...settings(side)].sort((p, q) => p.cost - q.cost));
    const accuracies = every.flat().map((setting) => setting.accuracy);
    const [low, high] = [Math.floor(20 * Math.min(...accuracies) - 0.2) / 20, Math.ceil(20 * Math.max(...accuracies) + 0.2) / 20];
    const x = (cost) => 46 + 300 * cost;
    const y = (accuracy) => 12 + (170 * (high - accuracy)) / (high - low);
    const parts = [];
    for (let tick = low; tick < high + 1e-9; tick += 0.05) parts.push(drawn("path", { class: "grid", d: `M46 ${y(tick)}H346` }), drawn("text", { class: "tick", x: 40, y: y(tick) + 4, "text-anchor": "end" }, percent(tick, 0)));
    for (const tick of [0, 0.25, 0.5, 0.75, 1]) parts.push(drawn("text", { class: "tick", x: x(tick), y: 200, "text-anchor": "middle" }, percent(tick, 0)));
    parts.push(drawn("path", { class: "axis", d: "M46 182H346" }), drawn("text", { class: "label", x: 196, y: 218, "text-anchor": "middle" }, "cost"), drawn("text", { class: "label", x: 46, y: 8 }, "accuracy"));
    SIDES.forEach((side, k) => {
      const line = every[k].map((setting) => `${x(setting.cost).toFixed(1)} ${y(setting.accuracy).toFixed(1)}`).join("L");
      parts.push(drawn("path", { class: `line is-${side}`, d: `M${line}` }));
    });
    for (const side of SIDES) {
      const at = [x(now(side).cost), y(now(side).accuracy)];
      parts.push(drawn("circle", { class: `point is-${side}`, cx: at[0], cy: at[1], r: 6 }), drawn("text", { class: "knob", x: at[0], y: side === "a" ? at[1] - 10 : at[1] + 19, "text-anchor": "middle" }, side.toUpperCase()));
    }
    picture.setAttribute("aria-label", `Accuracy against cost. ${SIDES.map((side) => `${side.toUpperCase()}, ${state[side].rule}: cost ${percent(now(side).cost)}, accuracy ${percent(now(side).accuracy)}`).join("; ")}.`);
    picture.replaceChildren(...parts);
  }

  // What one does.

  function changed() {
    stop();
    draw();
  }

  // Samples go from exit to exit, all at once, and stay where they leave.
  let timer = 0;
  function stop() {
    clearTimeout(timer);
    state.stage = null;
    run.textContent = "Run from the first exit";
  }
  function step(stage) {
    if (stage >= networkOf(state.data).E - 1) {
      stop();
      SIDES.forEach(drawSide);
      return;
    }
    state.stage = stage;
    run.textContent = "Stop";
    SIDES.forEach(drawSide);
    timer = setTimeout(step, 900, stage + 1);
  }
  run.addEventListener("click", () => {
    if (state.stage === null) return step(0);
    changed();
  });

  function pick(i, focus) {
    state.picked = i;
    SIDES.forEach(drawSide);
    chosen.replaceChildren(card(i));
    if (focus) focus.tiles[i].focus();
  }

  // Where a key leads from a tile: along the row, up and down to the next exit at which somebody leaves.
  function beside(view, key, i) {
    const rows = view.rows.map((row) => [...row.crowd.children]).filter((row) => row.length);
    const r = rows.findIndex((row) => row.includes(view.tiles[i]));
    const every = rows.flat();
    const k = { ArrowLeft: every.indexOf(view.tiles[i]) - 1, ArrowRight: every.indexOf(view.tiles[i]) + 1, Home: 0, End: every.length - 1 }[key];
    if (k !== undefined) return every[Math.min(Math.max(k, 0), every.length - 1)];
    const next = rows[r + { ArrowUp: -1, ArrowDown: 1 }[key]];
    return next ? next[Math.min(rows[r].indexOf(view.tiles[i]), next.length - 1)] : null;
  }

  for (const side of SIDES) {
    const view = views[side];
    view.rule.addEventListener("change", () => {
      const { cost } = now(form.elements.lock.checked ? other(side) : side);
      state[side].rule = view.rule.value;
      meet(side, cost);
      changed();
    });
    view.knob.addEventListener("input", () => {
      state[side].k = Number(view.knob.value);
      follow(side);
      changed();
    });
    view.board.addEventListener("click", (event) => {
      const tile = event.target.closest(".ee-tile");
      if (tile) pick(Number(tile.dataset.sample), view);
    });
    view.board.addEventListener("pointerover", (event) => {
      const tile = event.target.closest(".ee-tile");
      if (tile) tile.title = tile.getAttribute("aria-label");
    });
    view.board.addEventListener("keydown", (event) => {
      const tile = event.target.closest(".ee-tile");
      if (!tile || !/^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key)) return;
      event.preventDefault();
      const next = beside(view, event.key, Number(tile.dataset.sample));
      if (next) pick(Number(next.dataset.sample), view);
    });
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const choice of form.elements.data) {
    choice.addEventListener("change", () => {
      const { cost } = now("b");
      state.data = form.elements.data.value;
      state.picked = null;
      meet("b", cost);
      meet("a", now("b").cost);
      changed();
    });
  }
  form.elements.lock.addEventListener("change", () => {
    if (settings("a").length < settings("b").length) follow("a");
    else follow("b");
    changed();
  });
  more.addEventListener("click", () => {
    state.all = !state.all;
    draw();
  });

  // The choice in the address.

  function keep() {
    const query = new URLSearchParams({ data: state.data });
    for (const side of SIDES) {
      query.set(side, state[side].rule);
      query.set(`k${side}`, now(side).value);
    }
    if (!form.elements.lock.checked) query.set("lock", "no");
    try {
      history.replaceState(null, "", `?${query}${location.hash}`);
    } catch {
      // Opened from disk: some browsers forbid it there, and only the address misses the choice.
    }
  }

  function recall() {
    const query = new URLSearchParams(location.search);
    if (stored[query.get("data")]) form.elements.data.value = state.data = query.get("data");
    form.elements.lock.checked = query.get("lock") !== "no";
    meet("b", 0.5);
    meet("a", now("b").cost);
    for (const side of SIDES) {
      if (!RULES[query.get(side)]) continue;
      state[side].rule = query.get(side);
      meet(side, now(other(side)).cost);
    }
    for (const side of SIDES) {
      const wanted = query.get(`k${side}`);
      const k = settings(side).findIndex((setting) => setting.value === Number(wanted));
      if (wanted !== null && RULES[query.get(side)]) state[side].k = k >= 0 ? k : closest(settings(side).map((setting) => setting.value), Number(wanted));
    }
  }

  recall();
  place.hidden = false;
  draw();
})();
