r"""What a trained model is used for: samples, embeddings, reconstructions, pictures and files of
them.

$$ x \sim p(x \mid z), \; z \sim p(z); \qquad z(x) = \mathbb{E}_q[z \mid x]; \qquad
   \hat x = \mathbb{E}[x \mid z(x)]. $$

Read ``tasks`` first; ``pictures`` and ``export`` write what it returns.
"""
