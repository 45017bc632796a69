"""The forward operator against plain scipy, its adjoint by dot products, and where points land."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat
from scipy.signal import correlate2d

from blindsr.operators.degradation import SCALES, Alignment, Degradation, Padding, default_kernel_size
from blindsr.priors.gaussian import gaussian_kernel

NUMPY_MODE = {Padding.CIRCULAR: "wrap", Padding.REFLECT: "reflect", Padding.REPLICATE: "edge"}


def reference(x, k, scale, alignment, padding):
    """One plane: pad by K//2, correlate at full size, keep every s-th pixel from index 0 (fkp) or s - 1 (centered)."""
    if padding is Padding.VALID:
        return correlate2d(x, k, mode="valid")[::scale, ::scale]
    start = 0 if alignment is Alignment.FKP else scale - 1
    padded = np.pad(x, k.shape[0] // 2, mode=NUMPY_MODE[padding])
    return correlate2d(padded, k, mode="valid")[start::scale, start::scale]


def random_kernels(rng, n, size):
    k = torch.from_numpy(rng.random((n, 1, size, size)))
    return k / k.sum((2, 3), keepdim=True)


@st.composite
def operators(draw, paddings=tuple(Padding)):
    size = 2 * draw(st.integers(0, 7)) + 1
    scale, alignment = draw(st.sampled_from(SCALES)), draw(st.sampled_from(list(Alignment)))
    padding = draw(st.sampled_from(paddings))
    if padding is Padding.VALID:  # smaller kernels are refused there
        size = max(size, 2 * scale - 1)
    return Degradation(scale, size, alignment, padding)


shapes = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))


def centred_gaussian(size, scale, variance=1.0):
    v = torch.full((1,), variance, dtype=torch.float64)
    return gaussian_kernel(size, v, v, 0 * v, torch.full((1, 2), (size - scale) / 2, dtype=torch.float64))


def blob(size, row, col, std):
    axis = torch.arange(size, dtype=torch.float64)
    g = torch.exp(-0.5 * ((axis[:, None] - row) ** 2 + (axis[None, :] - col) ** 2) / std**2)
    return (g / g.sum()).view(1, 1, size, size)


def mass_center(image):
    """(row, column) of a plane."""
    p = image.squeeze().double()
    rows, cols = (torch.arange(n, dtype=torch.float64) for n in p.shape)
    return torch.stack([(p.sum(1) * rows).sum(), (p.sum(0) * cols).sum()]) / p.sum()


@given(operators(), shapes, st.integers(0, 2**31))
def test_forward_equals_scipy_correlation_then_subsampling(op, shape, seed):
    rng = np.random.default_rng(seed)
    b, c, h, w = shape
    x = rng.random((b, c, *op.hr_shape(h, w)))
    k = random_kernels(rng, b, op.kernel_size)
    y = op(torch.from_numpy(x), k)
    assert y.shape == (b, c, h, w)
    for i in range(b):
        for j in range(c):
            expected = reference(x[i, j], k[i, 0].numpy(), op.scale, op.alignment, op.padding)
            np.testing.assert_allclose(y[i, j].numpy(), expected, atol=1e-12)


@given(st.sampled_from(SCALES), st.integers(0, 6), st.integers(0, 20), st.integers(0, 20), st.integers(0, 2**31))
def test_valid_padding_takes_any_size_and_invents_no_samples(scale, half, more_rows, more_cols, seed):
    rng = np.random.default_rng(seed)
    op = Degradation(scale, max(2 * half + 1, 2 * scale - 1), padding=Padding.VALID)
    x = rng.random((op.kernel_size + more_rows, op.kernel_size + more_cols))
    k = random_kernels(rng, 1, op.kernel_size)
    y = op(torch.from_numpy(x)[None, None], k)
    expected = reference(x, k[0, 0].numpy(), scale, op.alignment, op.padding)
    assert y.shape[-2:] == expected.shape == op.lr_shape(*x.shape)
    np.testing.assert_allclose(y[0, 0].numpy(), expected, atol=1e-12)


@given(operators(), shapes, st.booleans(), st.integers(0, 2**31))
def test_adjoint_by_dot_product(op, shape, one_kernel, seed):
    rng = np.random.default_rng(seed)
    b, c, h, w = shape
    x = torch.from_numpy(rng.standard_normal((b, c, *op.hr_shape(h, w))))
    y = torch.from_numpy(rng.standard_normal((b, c, h, w)))
    k = random_kernels(rng, 1 if one_kernel else b, op.kernel_size)
    back = op.adjoint(y, k)
    assert back.shape == x.shape
    left, right = (op(x, k) * y).sum(), (x * back).sum()
    torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11)


@given(operators(), st.integers(0, 2**31))
def test_gradient_in_x_is_the_adjoint(op, seed):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((1, 1, *op.hr_shape(4, 3)))).requires_grad_()
    y, k = torch.from_numpy(rng.standard_normal((1, 1, 4, 3))), random_kernels(rng, 1, op.kernel_size)
    (grad,) = torch.autograd.grad((op(x, k) * y).sum(), x)
    torch.testing.assert_close(grad, op.adjoint(y, k), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("scale", SCALES)
def test_gradient_in_the_kernel_by_finite_differences(scale):
    rng = np.random.default_rng(scale)
    op = Degradation(scale, 5, Alignment.CENTERED, Padding.REFLECT)
    x = torch.from_numpy(rng.random((1, 2, 2 * scale, 3 * scale)))
    y = torch.from_numpy(rng.random((1, 2, 2, 3)))
    k = random_kernels(rng, 1, 5).requires_grad_()

    def error(kernel):
        return (op(x, kernel) - y).square().sum()

    assert torch.autograd.gradcheck(error, (k,))


@pytest.mark.parametrize("scale", SCALES)
def test_many_kernels_at_once_equal_one_at_a_time(scale):
    rng = np.random.default_rng(scale)
    op = Degradation(scale)
    x = torch.from_numpy(rng.random((2, 3, 4 * scale, 5 * scale)))
    kernels = random_kernels(rng, 6, op.kernel_size)
    together = op.each(x, kernels)
    assert together.shape == (6, 2, 3, 4, 5)
    for k, y in zip(kernels.split(1), together, strict=True):
        torch.testing.assert_close(y, op(x, k), rtol=0, atol=1e-13)


@pytest.mark.parametrize("chunk", [1, 2, 128])
def test_lr_error_is_the_mean_squared_error_of_each_kernel(chunk):
    rng = np.random.default_rng(1)
    op = Degradation(3, 7, padding=Padding.REPLICATE)
    x, y = rng.random((1, 2, 9, 12)), rng.random((1, 2, 3, 4))
    kernels = random_kernels(rng, 5, 7)
    found = op.lr_error(torch.from_numpy(x), torch.from_numpy(y), kernels, chunk=chunk)
    for k, error in zip(kernels[:, 0].numpy(), found.tolist(), strict=True):
        planes = [reference(x[0, c], k, 3, op.alignment, op.padding) - y[0, c] for c in range(2)]
        assert error == pytest.approx(np.mean(np.square(planes)), rel=1e-12)


@pytest.mark.parametrize("padding", list(Padding))
@pytest.mark.parametrize("alignment", list(Alignment))
def test_a_constant_image_stays_constant(alignment, padding):
    op = Degradation(4, alignment=alignment, padding=padding)
    x = torch.full((1, 1, *op.hr_shape(6, 6)), 0.7, dtype=torch.float64)
    k = random_kernels(np.random.default_rng(0), 1, op.kernel_size)
    torch.testing.assert_close(op(x, k), torch.full((1, 1, 6, 6), 0.7, dtype=torch.float64))


@pytest.mark.parametrize("alignment", list(Alignment))
@pytest.mark.parametrize("scale", SCALES)
def test_valid_operator_on_the_extended_image_is_the_padded_operator(scale, alignment):
    rng = np.random.default_rng(scale)
    padded = Degradation(scale, alignment=alignment, padding=Padding.CIRCULAR)
    valid = Degradation(scale, alignment=alignment, padding=Padding.VALID)
    x = torch.from_numpy(rng.random((1, 2, 4 * scale, 6 * scale)))
    k = random_kernels(rng, 1, padded.kernel_size)
    extended = padded.extend(x)
    assert extended.shape[-2:] == valid.hr_shape(4, 6)
    torch.testing.assert_close(valid(extended, k), padded(x, k), rtol=0, atol=1e-13)
    assert torch.equal(valid.crop(extended), x)


def documented_position(u, scale, alignment):
    """HR index that LR pixel u looks at."""
    return scale * u - (scale - 1) / 2 if alignment is Alignment.FKP else scale * u + (scale - 1) / 2


@pytest.mark.parametrize("padding", list(Padding))
@pytest.mark.parametrize("alignment", list(Alignment))
@pytest.mark.parametrize("scale", SCALES)
def test_a_blob_lands_at_the_documented_lr_position(scale, alignment, padding):
    op, n = Degradation(scale, alignment=alignment, padding=padding), 20
    u = torch.tensor([9.0, 10.25], dtype=torch.float64)
    row, col = (documented_position(v, scale, alignment) for v in u)
    before = op.margins[0] if padding is Padding.VALID else 0
    x = blob(op.hr_shape(n, n)[0], row + before, col + before, std=1.5 * scale)
    found = mass_center(op(x, centred_gaussian(op.kernel_size, scale)))
    torch.testing.assert_close(found, u, rtol=0, atol=1e-4)
    torch.testing.assert_close(mass_center(op.crop(x)), torch.stack([row, col]), rtol=0, atol=0.02)


@pytest.mark.parametrize("scale", SCALES)
def test_centered_alignment_keeps_physical_coordinates(scale):
    """Pixel i covers [i, i+1] of the HR axis, LR pixel u covers [s u, s (u+1)]: the same point in both."""
    op, n = Degradation(scale, alignment=Alignment.CENTERED), 20
    middle = (n * scale - 1) / 2
    y = op(blob(n * scale, middle, middle, 1.5 * scale), centred_gaussian(op.kernel_size, scale))
    physical = scale * (mass_center(y) + 0.5)
    torch.testing.assert_close(physical, torch.full((2,), n * scale / 2, dtype=torch.float64), rtol=0, atol=1e-3)
    assert torch.allclose(y, y.flip(-1, -2), atol=1e-6 * float(y.max()))


@pytest.mark.parametrize("alignment", list(Alignment))
@pytest.mark.parametrize("scale", SCALES)
def test_adjoint_puts_an_lr_point_back_where_it_came_from(scale, alignment):
    op = Degradation(scale, alignment=alignment)
    y = torch.zeros(1, 1, 12, 12, dtype=torch.float64)
    y[0, 0, 5, 7] = 1
    found = mass_center(op.adjoint(y, centred_gaussian(op.kernel_size, scale)))
    expected = [documented_position(u, scale, alignment) for u in (5, 7)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("scale", "size"), [(2, 11), (3, 15), (4, 19), (8, 21)])
def test_default_kernel_size_is_the_protocols(scale, size):
    assert default_kernel_size(scale) == Degradation(scale).kernel_size == size
    assert Degradation(scale).center == (size - scale) / 2


@pytest.mark.parametrize("scale", [-2, 0, 1, 5, 6, 16])
def test_other_scales_are_refused(scale):
    with pytest.raises(ValueError, match=f"scale {scale} is not supported"):
        Degradation(scale)


@pytest.mark.parametrize("size", [-3, 2, 10])
def test_even_and_negative_kernel_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"kernel size {size}"):
        Degradation(2, size)


@pytest.mark.parametrize("scale", SCALES)
def test_valid_padding_refuses_kernels_that_leave_pixels_unseen(scale):
    with pytest.raises(ValueError, match=f"a kernel of {2 * scale - 1} pixels or more"):
        Degradation(scale, 2 * scale - 3, padding=Padding.VALID)


@pytest.mark.parametrize("shape", [(1, 1, 9, 9), (3, 1, 11, 11, 1), (1, 3, 11, 11), (11, 11)])
def test_kernels_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="kernels have shape"):
        Degradation(2).each(torch.zeros(1, 1, 8, 8), torch.zeros(shape))


def test_images_that_are_no_multiple_of_the_scale_are_refused():
    with pytest.raises(ValueError, match="no multiple of scale 3"):
        Degradation(3)(torch.zeros(1, 1, 9, 10), torch.zeros(1, 1, 15, 15))


def test_kernels_and_images_must_match_in_number():
    with pytest.raises(ValueError, match="3 kernels for 2 images"):
        Degradation(2)(torch.zeros(2, 1, 8, 8), torch.zeros(3, 1, 11, 11))


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("name", ["baby", "bird", "butterfly", "head", "woman"])
def test_published_lr_images_come_out_to_the_truncation(data_folder, scale, name):
    hr = np.asarray(Image.open(data_folder / "Set5" / f"{name}.png").convert("RGB"), dtype=np.float64)
    lr = np.asarray(Image.open(data_folder / f"Set5_x{scale}" / f"{name}.png").convert("RGB"), dtype=np.float64)
    kernel = loadmat(data_folder / f"Set5_x{scale}" / f"{name}.mat")["Kernel"].astype(np.float64)
    h, w = (n // scale * scale for n in hr.shape[:2])
    x = torch.from_numpy(hr[:h, :w]).permute(2, 0, 1)[None]
    y = Degradation(scale)(x, torch.from_numpy(kernel)[None, None])[0].permute(1, 2, 0).numpy()
    lost = y - lr
    assert lost.min() > -1e-3 and lost.max() < 1 + 1e-3
