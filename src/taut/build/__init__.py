r"""From what the user asked for and the data to a model.

A specification is text, such as ``DReG(num_samples=8)``; what it omits follows from the data:
shapes, the likelihood, the starting point. A raw decoder output of zero stands for the marginal
of the training data, so that before the first step

$$ p(x \mid z) \approx \prod_i \hat p(x_i) \quad \text{for every } z, $$

and training starts from the baseline. What does not go together is refused here, before training.

Read ``model`` first, then ``usual`` (what is taken where the user says nothing), ``spec`` (text <->
object), ``config`` (what can be set), ``statistics`` (what a model takes from its data), ``start``
(the closed form that training starts at) and ``checks``.
"""
