/// The colour at `x`, `y` between pixels of `rgb`, `[height, width, 3]`, where whole numbers are the middles of
/// pixels. Beyond the border the border repeats.
#[must_use]
pub fn bilinear(rgb: &[u8], (width, height): (usize, usize), x: f32, y: f32) -> [f32; 3] {
    let (x, y) = (x.clamp(0.0, (width - 1) as f32), y.clamp(0.0, (height - 1) as f32));
    let (x0, y0) = (x as usize, y as usize);
    let (x1, y1) = ((x0 + 1).min(width - 1), (y0 + 1).min(height - 1));
    let (tx, ty) = (x - x0 as f32, y - y0 as f32);
    let at = |x: usize, y: usize, c: usize| f32::from(rgb[(y * width + x) * 3 + c]);
    std::array::from_fn(|c| {
        let upper = at(x0, y0, c) * (1.0 - tx) + at(x1, y0, c) * tx;
        let lower = at(x0, y1, c) * (1.0 - tx) + at(x1, y1, c) * tx;
        upper * (1.0 - ty) + lower * ty
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_between_pixels_are_mixed_and_the_border_repeats() {
        // Two columns, three rows.
        let rgb: Vec<u8> = [0, 100, 40, 60, 80, 20].into_iter().flat_map(|v| [v; 3]).collect();
        let at = |x, y| bilinear(&rgb, (2, 3), x, y)[1];
        assert_eq!((at(0.0, 0.0), at(1.0, 2.0)), (0.0, 20.0));
        assert_eq!((at(0.5, 0.0), at(0.25, 0.5)), (50.0, 35.0));
        assert_eq!((at(-3.0, -1.0), at(9.0, 9.0)), (0.0, 20.0));
    }
}
