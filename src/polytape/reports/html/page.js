"use strict";
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  // The baseline is a grey that is seen on white; on black it is a light one.
  const swaps = [["#3B3B3B", "#D4D4D4"], ["rgba(59,59,59,", "rgba(212,212,212,"], ["#F1F1F1", "#2B2F35"]];
  const hidden = new Set();

  function look() {
    const style = getComputedStyle(document.documentElement);
    return (name) => style.getPropertyValue(name).trim();
  }

  function figureOf(place) {
    let text = document.querySelector(`script[data-for="${place.id}"]`).textContent;
    if (dark.matches) for (const [from, to] of swaps) text = text.replaceAll(from, to);
    const figure = JSON.parse(text);
    const colour = look();
    const layout = figure.layout;
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.font = { family: "system-ui, sans-serif", size: 12, color: colour("--ink") };
    layout.hoverlabel = { bgcolor: colour("--mark"), font: { color: colour("--ink") }, bordercolor: colour("--line") };
    layout.modebar = { color: colour("--quiet"), activecolor: colour("--ink"), bgcolor: "rgba(0,0,0,0)" };
    for (const key of Object.keys(layout).filter((name) => /^[xy]axis/.test(name))) {
      layout[key].gridcolor = layout[key].linecolor = layout[key].zerolinecolor = colour("--line");
    }
    for (const trace of figure.data) if (hidden.has(trace.legendgroup)) trace.visible = false;
    return figure;
  }

  const config = {
    responsive: true, displaylogo: false, showTips: false,
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  };

  function draw() {
    for (const place of document.querySelectorAll(".plot")) {
      const figure = figureOf(place);
      Plotly.react(place, figure.data, figure.layout, config);
    }
  }

  for (const button of document.querySelectorAll("#legend button")) {
    button.addEventListener("click", () => {
      const method = button.dataset.method;
      if (!hidden.delete(method)) hidden.add(method);
      button.setAttribute("aria-pressed", String(!hidden.has(method)));
      for (const place of document.querySelectorAll(".plot")) {
        const own = place.data.flatMap((trace, index) => (trace.legendgroup === method ? [index] : []));
        if (own.length) Plotly.restyle(place, { visible: !hidden.has(method) }, own);
      }
    });
  }

  dark.addEventListener("change", draw);
  draw();
  document.documentElement.dataset.drawn = document.querySelectorAll(".plot .main-svg").length > 0;
})();
