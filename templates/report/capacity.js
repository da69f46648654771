// The arithmetic of launcher/analysis/{pools,capacity}.py, operation by operation.
"use strict";

const capacity = (() => {
  const MILLI = 1000;
  const SECONDS_AN_HOUR = 3600;

  const hoursPer1k = (gpus, perSecond) => (perSecond > 0 ? (gpus * 1e3) / perSecond / SECONDS_AN_HOUR : Infinity);

  function curves(points) {
    const byName = (a, b) => (a.curve < b.curve ? -1 : Number(a.curve > b.curve));
    const ordered = [...points].sort(
      (a, b) => a.gpus - b.gpus || byName(a, b) || a.tokens - b.tokens || a.time_ms - b.time_ms,
    );
    const found = new Map();
    for (const point of ordered) {
      const key = `${point.gpus}/${point.curve}`;
      if (!found.has(key)) found.set(key, { gpus: point.gpus, at: new Map() });
      found.get(key).at.set(point.tokens, point);
    }
    return [...found.values()];
  }

  function between(curve, tokens) {
    const low = Math.max(...[...curve.keys()].filter((at) => at <= tokens));
    const high = Math.min(...[...curve.keys()].filter((at) => at >= tokens));
    if (low === -Infinity || high === Infinity) return null;
    const [first, second] = [curve.get(low), curve.get(high)];
    if (low === high) return { time_ms: first.time_ms, batch: first.batch };
    const way = (tokens - low) / (high - low);
    return {
      time_ms: first.time_ms + (second.time_ms - first.time_ms) * way,
      batch: first.batch + (second.batch - first.batch) * way,
    };
  }

  function bestEngine(pool, demand) {
    const prefill = pool.role === "prefill";
    const tokens = prefill ? demand.isl : demand.isl + demand.osl / 2;
    const limit = prefill ? demand.ttft_ms : demand.tpot_ms;
    const answers = prefill ? 1 : demand.osl;
    if (!pool.points.length) return { reason: `no ${pool.role} worker was measured` };
    const timed = curves(pool.points)
      .map(({ gpus, at }) => ({ gpus, found: between(at, tokens) }))
      .filter(({ found }) => found !== null)
      .map(({ gpus, found }) => ({ gpus, ...found }));
    if (!timed.length) {
      const all = pool.points.map((point) => point.tokens);
      const range = `${Math.min(...all)} to ${Math.max(...all)} tokens`;
      return { reason: `${pool.role} was measured at ${range}, and ${tokens} are asked for` };
    }
    const kept = timed.filter((engine) => engine.time_ms <= limit);
    if (!kept.length) {
      const fastest = Math.min(...timed.map((engine) => engine.time_ms)).toPrecision(4);
      const name = prefill ? "TTFT" : "TPOT";
      return { reason: `the shortest ${name} at ${tokens} tokens is ${fastest} ms, and ${limit} ms is the limit` };
    }
    const engines = kept.map((engine) => ({
      ...engine,
      role: pool.role,
      requests_per_s: engine.batch / (answers * (engine.time_ms / MILLI)),
    }));
    const rate = (engine) => engine.requests_per_s / engine.gpus;
    return engines.reduce((best, engine) => (rate(engine) > rate(best) ? engine : best));
  }

  function workersFor(demand, engine) {
    const least = engine.role === "prefill" ? demand.least_prefill : demand.least_decode;
    return Math.max(least, Math.ceil(demand.requests_per_s / engine.requests_per_s / demand.headroom));
  }

  function withinBudget([x, y], [gpusX, gpusY], demand) {
    const budget = demand.gpu_budget;
    const total = x * gpusX + y * gpusY;
    if (budget === null || total <= budget) return [x, y];
    const [leastX, leastY] = [demand.least_prefill, demand.least_decode];
    if (leastX * gpusX + leastY * gpusY > budget) return [0, 0];
    const most = Math.floor((budget - leastY * gpusY) / gpusX);
    const prefill = Math.max(leastX, Math.min(most, Math.floor((x * budget) / total)));
    return [prefill, Math.max(leastY, Math.min(y, Math.floor((budget - prefill * gpusX) / gpusY)))];
  }

  function planCapacity(prefill, decode, demand) {
    const first = bestEngine(prefill, demand);
    if (first.reason) return first;
    const second = bestEngine(decode, demand);
    if (second.reason) return second;
    const needed = [workersFor(demand, first), workersFor(demand, second)];
    const [x, y] = withinBudget(needed, [first.gpus, second.gpus], demand);
    if (!x || !y) {
      const least = demand.least_prefill * first.gpus + demand.least_decode * second.gpus;
      return { reason: `the smallest deployment takes ${least} GPUs, and the budget is ${demand.gpu_budget}` };
    }
    const carried = [x * first.requests_per_s, y * second.requests_per_s];
    const served = Math.min(demand.requests_per_s, Math.min(...carried) * demand.headroom);
    const gpus = x * first.gpus + y * second.gpus;
    const used = carried.map((most) => served / most);
    return {
      prefill: { engine: first, needed: needed[0], workers: x, utilisation: used[0] },
      decode: { engine: second, needed: needed[1], workers: y, utilisation: used[1] },
      gpus,
      served_per_s: served,
      binding: used[0] > used[1] ? "prefill" : "decode",
      gpu_hours_per_1k: hoursPer1k(gpus, served),
    };
  }

  function planCopies(measuredPerSecond, gpus, requestsPerSecond, headroom) {
    if (measuredPerSecond <= 0) return { reason: "the deployment completed no request" };
    const copies = Math.max(1, Math.ceil(requestsPerSecond / measuredPerSecond / headroom));
    return {
      copies,
      gpus: copies * gpus,
      utilisation: requestsPerSecond / (copies * measuredPerSecond),
      gpu_hours_per_1k: hoursPer1k(copies * gpus, requestsPerSecond),
    };
  }

  return { planCapacity, planCopies };
})();
