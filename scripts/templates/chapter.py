# %% [markdown]
# # @TITLE@
#
# @BADGE@
#
# Write here: the result of the chapter in two sentences, and the figure one came for.

# %% tags=["setup", "hide-input"]
# @SETUP@

# %% [markdown]
# ## Objectives
#
# After this chapter you can
#
# - Write here: three or four things that a reader can do afterwards.
#
# ## The idea in a picture
#
# Write here: 1-D or 2-D data where the truth is known exactly.

# %% [markdown]
# ## The derivation
#
# Write here: every step; what matters is numbered.
#
# $$
# x = x \tag{@CHAPTER@.1}
# $$

# %% [markdown]
# ## From scratch, then from the library
#
# Write here: the formula in about ten lines, then `ddpmlib`'s version, asserted equal.

# %% [markdown]
# ## Train it here
#
# Write here: embedded 8×8 digits, seconds to a minute on one CPU thread.

# %% [markdown]
# ## The same code at scale
#
# Write here: the trained checkpoint, the command, the hardware, the time, the curve.

# %% [markdown]
# ## One knob turned
#
# Write here: a table and a figure, with error bars where a number is compared.

# %% [markdown]
# ## What goes wrong
#
# Write here: a real bug of this topic, its symptom as a picture, the test that catches it.

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise @CHAPTER@.1
#
# Write here: the question.
#
# :::{dropdown} Hint
# Write here: the hint.
# :::

# %%
answer = ...  # your answer

# %% tags=["hide-cell", "solution"]
from ddpmlib.teaching import exercises

# Solution of exercise @CHAPTER@.1
solution = ...  # Write here: the solution

exercises.check("@CHAPTER@.1", solution)

# %% [markdown]
# ### ★★ Exercise @CHAPTER@.2
#
# Write here: the question.
#
# :::{dropdown} Hint
# Write here: the hint.
# :::

# %%
answer = ...  # your answer

# %% tags=["hide-cell", "solution"]
# Solution of exercise @CHAPTER@.2
solution = ...  # Write here: the solution

exercises.check("@CHAPTER@.2", solution)

# %% [markdown]
# ### ★★★ Exercise @CHAPTER@.3
#
# Write here: the question.
#
# :::{dropdown} Hint
# Write here: the hint.
# :::

# %%
answer = ...  # your answer

# %% tags=["hide-cell", "solution"]
# Solution of exercise @CHAPTER@.3
solution = ...  # Write here: the solution

exercises.check("@CHAPTER@.3", solution)

# %% [markdown]
# ## Recap
#
# 1. Write here: five lines.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %%
from ddpmlib import equations

equations.table("@NUMBER@")

# %% [markdown]
# ## Further reading
#
# - Write here: {cite}`ho2020denoising` and what to look for in it.
