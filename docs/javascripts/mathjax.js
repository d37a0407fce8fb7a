// Without a connection the pages show formulas as TeX.
// A notebook has its formulas between dollar signs in its text cells, a page in spans of their own.
window.MathJax = document.querySelector(".jupyter-wrapper")
  ? {
      tex: {inlineMath: [["$", "$"]], displayMath: [["$$", "$$"]]},
      startup: {elements: [".jp-RenderedMarkdown"]},
    }
  : {
      tex: {inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]]},
      options: {ignoreHtmlClass: ".*|", processHtmlClass: "arithmatex"},
    };
