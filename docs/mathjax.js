// Formulas are what pymdownx.arithmatex marks; nothing else on a page is read as one.
window.MathJax = {
  tex: {inlineMath: [['\\(', '\\)']], displayMath: [['\\[', '\\]']]},
  options: {ignoreHtmlClass: '.*|', processHtmlClass: 'arithmatex'}
};
