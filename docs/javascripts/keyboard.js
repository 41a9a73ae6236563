// Wide tables scroll sideways in a box of their own: let the keyboard reach it.
const reach = () =>
  document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset table.kpframe, .md-typeset pre > code").forEach(box => {
    if (box.scrollWidth > box.clientWidth) box.setAttribute("tabindex", "0")
  })
addEventListener("load", reach)
addEventListener("resize", reach)
