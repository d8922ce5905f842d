//! What the pictures of the project have in common: those of `gridnet perf` and of `bench/peers`.

use plotters::prelude::*;

/// Of letters and lines.
pub(crate) const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);

/// Blue and vermilion of the palette by Okabe and Ito, which colour-blind people tell apart.
pub(crate) const BLUE: RGBColor = RGBColor(0x00, 0x72, 0xb2);
pub(crate) const VERMILION: RGBColor = RGBColor(0xd5, 0x5e, 0x00);

/// Letters of so many pixels.
pub(crate) fn letters(size: u32, color: &RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(color)
}
