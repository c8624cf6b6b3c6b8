"""The page on which a person sees what a model learned: ``taut explore RUN [RUN ...]``.

A local server (``server``) gives a page without a build step (``static/``) what it asks for, as
plain values (``views``). Every number on it is one that ``runs``, ``use`` and ``evidence`` give;
nothing is computed here in a second way.

Three promises: the page loads nothing from elsewhere; the server answers whatever it is sent with
a fixed answer, in bounded memory; and all that a mouse can do on the page, keys can do, and a
screen reader tells.

Read ``views`` first, then ``server``, then ``static/app.js``.
"""
