# %% [markdown]
# # @CHAPTER@. @TITLE@
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
# ## Write here: the claim that a picture shows
#
# Write here: 1-D or 2-D data where the truth is known exactly. Below each figure stands its caption,
# a cell that begins with "**Fig. @CHAPTER@.1.**" and says what to see.

# %% [markdown]
# ## Write here: what is derived
#
# Write here: every step; what matters is numbered, what a first reader may skip is folded.
#
# $$
# x = x \tag{@CHAPTER@.1}
# $$

# %% [markdown]
# ## Write here: the formula in ten lines
#
# Write here: from scratch, then `ddpmlib`'s version, asserted equal.

# %% [markdown]
# ## Write here: training on 8×8 digits
#
# Write here: seconds to a minute on one CPU thread.

# %% [markdown]
# ## Write here: a trained checkpoint, measured
#
# Write here: the command, the hardware, the time, the curve.

# %% [markdown]
# ## Write here: the question that one experiment answers
#
# Write here: a table and a figure, with error bars where a number is compared.

# %% [markdown]
# ## What goes wrong
#
# Write here: a real bug of this topic, its symptom as a picture, the test that catches it.

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise @CHAPTER@.1: write here what it asks
#
# Write here: the question.
#
# :::{dropdown} Hint
# Write here: the hint.
# :::

# %%
answer = ...  # your answer

# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
from ddpmlib.teaching import exercises

# Solution of exercise @CHAPTER@.1
solution = ...  # Write here: the solution

exercises.check("@CHAPTER@.1", solution)

# %% [markdown]
# ### ★★ Exercise @CHAPTER@.2: write here what it asks
#
# Write here: the question.
#
# :::{dropdown} Hint
# Write here: the hint.
# :::

# %%
answer = ...  # your answer

# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise @CHAPTER@.2
solution = ...  # Write here: the solution

exercises.check("@CHAPTER@.2", solution)

# %% [markdown]
# ### ★★★ Exercise @CHAPTER@.3: write here what it asks
#
# Write here: the question.
#
# :::{dropdown} Hint
# Write here: the hint.
# :::

# %%
answer = ...  # your answer

# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise @CHAPTER@.3
solution = ...  # Write here: the solution

exercises.check("@CHAPTER@.3", solution)

# %% [markdown]
# ## Recap
#
# 1. Write here: five lines.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
from ddpmlib import equations

equations.table("@NUMBER@")

# %% [markdown]
# ## Further reading
#
# - Write here: {cite}`ho2020denoising` and what to look for in it.
