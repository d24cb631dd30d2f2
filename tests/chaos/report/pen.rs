//! Pen: what all pictures are drawn with, as SVG in plain text; also those of the bench example.

pub(crate) const INK: &str = "#222222";
pub(crate) const GREY: &str = "#dddddd";

/// A white sheet with a title; whoever begins it ends it with `</svg>`.
pub(crate) fn sheet((width, height): (f64, f64), title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\">\n\
         <title>{title}</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n",
        title = escape(title)
    )
}

/// A straight line.
pub(crate) fn line((x1, y1): (f64, f64), (x2, y2): (f64, f64), color: &str) -> String {
    format!(
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{color}\"/>\n"
    )
}

/// Words that begin, end or have their middle at a place.
pub(crate) fn text((x, y): (f64, f64), anchor: &str, size: u32, text: &str) -> String {
    format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" \
         fill=\"{INK}\">{}</text>\n",
        escape(text)
    )
}

/// A line across at the height of a value, and the value beside it.
pub(crate) fn tick_of_height((left, right): (f64, f64), y: f64, label: &str) -> String {
    line((left, y), (right, y), GREY) + &text((left - 6.0, y + 4.0), "end", 11, label)
}

/// A mark below the foot at a value, and the value below it.
pub(crate) fn tick_of_foot(x: f64, foot: f64, label: &str) -> String {
    line((x, foot), (x, foot + 5.0), INK) + &text((x, foot + 18.0), "middle", 11, label)
}

/// The two axes: along the foot and up the left side.
pub(crate) fn axes((left, right): (f64, f64), (top, foot): (f64, f64)) -> String {
    line((left, foot), (right, foot), INK) + &line((left, top), (left, foot), INK)
}

/// As text of an element.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            char if char.is_control() || matches!(char, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            char => out.push(char),
        }
    }
    out
}
