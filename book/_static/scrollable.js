// A box that scrolls must be within reach of the keyboard: it gets a place in the tab order while
// its content is wider than the box, and loses it when the window has become wide enough.
(() => {
  const BOXES = "pre, table, .math, .cell_output, .math mjx-container, .bd-sidebar";

  function scrolls(box) {
    const style = getComputedStyle(box);
    const across = /auto|scroll/.test(style.overflowX) && box.scrollWidth > box.clientWidth + 1;
    const down = /auto|scroll/.test(style.overflowY) && box.scrollHeight > box.clientHeight + 1;
    return across || down;
  }

  function refresh() {
    for (const box of document.querySelectorAll(BOXES)) {
      if (scrolls(box)) {
        box.tabIndex = 0;
        box.dataset.scrolls = "";
      } else if ("scrolls" in box.dataset) {
        box.removeAttribute("tabindex");
        delete box.dataset.scrolls;
      }
    }
  }

  async function start() {
    await window.MathJax?.startup?.promise;
    refresh();
    addEventListener("resize", refresh);
    // An unfolded cell has a width at last.
    document.addEventListener("toggle", refresh, true);
  }

  addEventListener("load", start);
})();
