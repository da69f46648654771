// The capacity calculator: reads the form, asks `capacity`, shows what it says.
"use strict";

const calculator = (() => {
  const CHOICES = 5;

  function demandOf(form) {
    const value = (name) => Number(form.elements[name]?.value || NaN);
    const budget = form.elements.gpu_budget.value;
    return {
      requests_per_s: value("requests_per_s"), isl: value("isl"), osl: value("osl"), ttft_ms: value("ttft_ms"),
      tpot_ms: value("tpot_ms"), headroom: value("headroom"), gpu_budget: budget ? Number(budget) : null,
      least_prefill: 1, least_decode: 1,
    };
  }

  const percent = (share) => `${Math.round(share * 100)} %`;

  function copies(points, demand) {
    const kept = points.filter((point) =>
      point.standing === "valid"
      && point.with_failures?.["ttft_ms@p95"] <= demand.ttft_ms
      && point.with_failures?.["tpot_ms@p95"] <= demand.tpot_ms);
    return kept
      .map((point) => ({ point, plan: capacity.planCopies(point.figures.requests_per_s ?? 0, point.gpus ?? 0, demand.requests_per_s, demand.headroom) }))
      .filter(({ plan }) => !plan.reason && (demand.gpu_budget === null || plan.gpus <= demand.gpu_budget))
      .sort((a, b) => a.plan.gpus - b.plan.gpus || a.plan.copies - b.plan.copies);
  }

  function table(headings, rows) {
    const made = document.createElement("table");
    const head = made.createTHead().insertRow();
    for (const heading of headings) head.append(Object.assign(document.createElement("th"), { textContent: heading, scope: "col" }));
    const body = made.createTBody();
    for (const row of rows) {
      const line = body.insertRow();
      for (const cell of row) line.insertCell().textContent = cell;
    }
    return made;
  }

  const words = (text) => Object.assign(document.createElement("p"), { textContent: text });

  function copiesTable(found, rate, price) {
    const cost = (plan) => (plan.gpus ? `${charts.shown(plan.gpu_hours_per_1k)} GPU-h` : "–");
    const money = (plan) => (plan.gpus && Number.isFinite(price) ? `$${charts.shown(plan.gpus * price)}/h` : "–");
    const rows = found.slice(0, CHOICES).map(({ point, plan }) => [point.name, point.load, plan.copies, plan.gpus || "–", percent(plan.utilisation), cost(plan), money(plan)]);
    return table(["deployment", "each at", "copies", "GPUs", "utilisation", "1k requests", "price"], rows);
  }

  function poolsAnswer(view, demand, price) {
    const plan = capacity.planCapacity({ role: "prefill", points: view.prefill }, { role: "decode", points: view.decode }, demand);
    if (plan.reason) return [words(`Pools: no plan, because ${plan.reason}.`)];
    const { prefill, decode } = plan;
    const served = plan.served_per_s < demand.requests_per_s ? `; the budget leaves ${charts.shown(plan.served_per_s)} of ${demand.requests_per_s} requests/s` : "";
    const money = Number.isFinite(price) ? `, $${charts.shown(plan.gpus * price)}/h` : "";
    const side = (name, pool) => [name, pool.workers, pool.engine.gpus, charts.shown(pool.engine.batch), `${charts.shown(pool.engine.time_ms)} ms`, charts.shown(pool.engine.requests_per_s), percent(pool.utilisation)];
    return [
      words(`Pools: ${prefill.workers}P${decode.workers}D on ${plan.gpus} GPUs${money}, ${charts.shown(plan.gpu_hours_per_1k)} GPU-h per 1k requests; ${plan.binding} binds${served}.`),
      table(["pool", "workers", "GPUs each", "batch", "TTFT or TPOT", "requests/s each", "utilisation"], [side("prefill", prefill), side("decode", decode)]),
    ];
  }

  function show(form, answer, view, points, price) {
    if (!form.checkValidity()) {
      answer.replaceChildren(words("Fill in every field: numbers above zero, and a share up to 1."));
      return;
    }
    const demand = demandOf(form);
    const found = copies(points, demand);
    const none = "No valid point of this workload keeps both limits within the budget. What was not measured is not guessed.";
    const parts = found.length ? [copiesTable(found, demand.requests_per_s, price)] : [words(none)];
    if (view.prefill.length && view.decode.length) parts.push(...poolsAnswer(view, demand, price));
    answer.replaceChildren(...parts);
  }

  return { show };
})();
