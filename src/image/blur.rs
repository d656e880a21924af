use ::image::imageops;
use ::image::{ImageBuffer, Rgb};

use super::Picture;

/// The picture under a Gaussian blur of standard deviation `sigma`, in pixels; unchanged for 0 and less.
#[must_use]
pub fn gaussian_blur(picture: &Picture, sigma: f32) -> Picture {
    let (width, height) = (picture.width(), picture.height());
    let buffer = ImageBuffer::<Rgb<u8>, _>::from_raw(width, height, picture.rgb());
    match buffer.filter(|_| sigma > 0.0) {
        Some(buffer) => Picture { width, height, rgb: imageops::blur(&buffer, sigma).into_raw() },
        None => picture.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_spreads_into_a_bell_and_keeps_its_light() {
        let mut rgb = vec![0; 31 * 31 * 3];
        rgb[(15 * 31 + 15) * 3..][..3].fill(255);
        let point = Picture::from_rgb(31, 31, rgb).unwrap();
        assert_eq!(gaussian_blur(&point, 0.0), point);
        let blurred = gaussian_blur(&point, 1.0);
        let at = |x: usize, y: usize| f64::from(blurred.rgb()[(y * 31 + x) * 3]);
        // 255 / (2 pi) in the middle, e^-0.5 of it one pixel away.
        assert!((at(15, 15) - 40.6).abs() < 2.0, "{}", at(15, 15));
        assert!((at(16, 15) / at(15, 15) - 0.607).abs() < 0.06);
        assert_eq!((at(14, 15), at(15, 16)), (at(16, 15), at(16, 15)));
        let sum: f64 = (0..31 * 31).map(|i| at(i % 31, i / 31)).sum();
        assert!((sum - 255.0).abs() < 16.0, "{sum}");
    }
}
