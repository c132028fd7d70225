"""The entries of the museum of bugs: real mistakes, the lines that make them, their tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """One place of the library: ``right`` stands exactly once in the module; ``wrong`` replaces it.

    Raises:
        ValueError: where the source is edited, if ``right`` is not there exactly once.
    """

    module: str
    right: str
    wrong: str

    def __call__(self, source: str) -> str:
        found = source.count(self.right)
        if found != 1:
            raise ValueError(
                f"{self.module} should hold {self.right!r} exactly once, and holds it {found} "
                "times: the museum's entry no longer fits the library"
            )
        return source.replace(self.right, self.wrong)


@dataclass(frozen=True)
class Bug:
    """A mistake.

    Attributes:
        edits: what is written in the place of what.
        caught_by: tests (path::name, or path::name[case]) that fail with it, each of them.
        passed_by: tests that look as if they must fail, and pass.
    """

    edits: tuple[Edit, ...]
    caught_by: tuple[str, ...]
    passed_by: tuple[str, ...] = ()


BUGS: dict[str, Bug] = {
    "noise_after_the_last_step": Bug(
        edits=(
            Edit(
                "samplers.ancestral", "if self.eta > 0 and s != process.clean:", "if self.eta > 0:"
            ),
            Edit("process.process", "if s == self.clean or eta == 0:", "if eta == 0:"),
        ),
        caught_by=(
            "tests/test_samplers.py::test_who_always_says_the_same_gets_exactly_that[7-1.0-shape1]",
            "tests/test_process.py::test_the_last_step_returns_the_prediction_and_no_noise",
        ),
        passed_by=("tests/test_samplers.py::test_samples_follow_the_mixture[200-1.0-0.03]",),
    ),
    "one_step_behind": Bug(
        edits=(
            Edit(
                "samplers.ancestral",
                "prediction = denoise(x, t)",
                "prediction = denoise(x, max(t - 1, 1))",
            ),
        ),
        caught_by=(
            "tests/test_textbook.py::test_algorithm_2_is_the_engine_at_eta_one[beta-linear]",
            "tests/test_samplers.py::test_sample_and_moments_walk_the_same_chain",
        ),
        passed_by=(
            "tests/test_samplers.py::test_who_always_says_the_same_gets_exactly_that[7-1.0-shape1]",
        ),
    ),
    "bar_lost": Bug(
        edits=(
            Edit(
                "textbook",
                "(1 - alpha_bar[t]).sqrt() * eps_net(x, t)",
                "(1 - alpha[t]).sqrt() * eps_net(x, t)",
            ),
        ),
        caught_by=(
            "tests/test_textbook.py::test_algorithm_2_is_the_engine_at_eta_one[beta-linear]",
        ),
        passed_by=("tests/test_textbook.py::test_algorithm_2_finds_a_point",),
    ),
    "variance_for_deviation": Bug(
        edits=(
            Edit(
                "process.process",
                "eta * _mixed_std(stride.beta_tilde, stride.beta, var_mix)",
                "eta * _mixed_std(stride.beta_tilde, stride.beta, var_mix) ** 2",
            ),
        ),
        caught_by=(
            "tests/test_process.py::test_the_ancestral_step_draws_from_the_posterior[0.5-2-1]",
            "tests/test_samplers.py::test_samples_follow_the_mixture[200-1.0-0.03]",
        ),
        passed_by=(
            "tests/test_samplers.py::test_who_always_says_the_same_gets_exactly_that[7-1.0-shape1]",
        ),
    ),
    "data_in_0_1": Bug(
        edits=(Edit("data.scale", "return x.float() / 127.5 - 1", "return x.float() / 255"),),
        caught_by=(
            "tests/test_data.py::test_all_256_values_survive_the_round_trip",
            "tests/test_training.py::test_images_stay_uint8_and_are_scaled_on_the_fly",
        ),
    ),
    "uniform_noise": Bug(
        edits=(
            Edit(
                "samplers.noise",
                "torch.randn(x.shape, generator=generator",
                "torch.rand(x.shape, generator=generator",
            ),
        ),
        caught_by=(
            "tests/test_samplers.py::test_samples_follow_the_mixture[200-1.0-0.03]",
            "tests/test_samplers.py::test_sample_and_moments_walk_the_same_chain",
        ),
        passed_by=(
            "tests/test_samplers.py::test_who_always_says_the_same_gets_exactly_that[7-1.0-shape1]",
        ),
    ),
    "uniform_noise_in_training": Bug(
        edits=(
            Edit(
                "losses.objectives",
                "\n    eps = torch.randn(x.shape, device",
                "\n    eps = torch.rand(x.shape, device",
            ),
        ),
        caught_by=(
            "tests/test_recipes.py::test_diffusion_loss_is_the_mean_square_at_the_drawn_noise",
        ),
    ),
    "averaged_buffers": Bug(
        edits=(
            Edit(
                "training.averaging",
                "mine.copy_(its)",
                "mine.copy_(mine + (1 - self.decay) * (its - mine))",
            ),
        ),
        caught_by=(
            "tests/test_training.py::test_averages_of_normalisation_statistics_follow_the_model",
        ),
        passed_by=("tests/test_training.py::test_ema_equals_the_hand_computed_one",),
    ),
    "guidance_sign": Bug(
        edits=(
            Edit(
                "guidance.classifier_free",
                "conditional + w * (conditional - null)",
                "conditional - w * (conditional - null)",
            ),
        ),
        caught_by=("tests/test_guidance.py::test_w_weighs_as_the_book_says[3.0-20]",),
    ),
    "clean_classifier": Bug(
        edits=(Edit("zoo.recipes.noisy_classifier", "x = process.q_sample(x, t, eps)", "pass"),),
        caught_by=(
            "tests/test_recipes.py"
            "::test_a_noisy_classifier_learns_from_x_t_and_its_twin_from_clean_images[True]",
        ),
    ),
    "float32_tables": Bug(
        edits=(
            Edit(
                "process.ddpm", "dtype=torch.float64, copy=True", "dtype=torch.float32, copy=True"
            ),
        ),
        caught_by=(
            "tests/test_process.py::test_tables_are_float64_over_zero_to_T_and_start_clean",
            "tests/test_process.py::test_tables_follow_their_definitions",
        ),
        passed_by=("tests/test_samplers.py::test_samples_follow_the_mixture[200-1.0-0.03]",),
    ),
    "clipping_forgotten": Bug(
        # By way of whole numbers, so that every machine wraps around in the same way.
        edits=(
            Edit(
                "data.scale",
                "((x.clamp(-1, 1) + 1) * 127.5).round()",
                "((x + 1) * 127.5).round().long()",
            ),
        ),
        caught_by=("tests/test_data.py::test_to_uint8_clips_and_rounds",),
        passed_by=("tests/test_data.py::test_all_256_values_survive_the_round_trip",),
    ),
    "clipping_doubled": Bug(
        edits=(
            Edit(
                "samplers.ancestral",
                "process.step(x, prediction, t, s, self.eta, noise)",
                "process.step(x, prediction, t, s, self.eta, noise).clamp(-1, 1)",
            ),
        ),
        caught_by=(
            "tests/test_samplers.py::test_samples_follow_the_mixture[200-1.0-0.03]",
            "tests/test_textbook.py::test_algorithm_2_is_the_engine_at_eta_one[beta-linear]",
        ),
        passed_by=(
            "tests/test_samplers.py::test_a_point_is_found_under_every_schedule_in_float32[beta0]",
        ),
    ),
    "features_in_another_range": Bug(
        edits=(
            Edit(
                "evaluation.features",
                "data.to_float(x) if x.dtype == torch.uint8",
                "x.float() / 255 if x.dtype == torch.uint8",
            ),
        ),
        caught_by=("tests/test_features.py::test_uint8_and_float_images_are_the_same_images",),
        passed_by=("tests/test_features.py::test_samples_are_clipped_to_the_range_of_images",),
    ),
    "times_along_the_width": Bug(
        edits=(Edit("broadcast", "return v.reshape(-1, *[1] * (x.ndim - 1))", "return v"),),
        caught_by=(
            "tests/test_broadcast.py"
            "::test_expand_is_not_fooled_by_a_last_axis_as_long_as_the_batch",
            "tests/test_process.py::test_a_vector_of_times_treats_each_sample_alone[shape2]",
        ),
        passed_by=("tests/test_samplers.py::test_samples_follow_the_mixture[200-1.0-0.03]",),
    ),
}
