"""What a trained model is used for: samples, embeddings, reconstructions, pictures and files of
them.

Read ``tasks`` first.
"""
