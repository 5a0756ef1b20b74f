"""View-dependent prompts: "{prompt}, front view" and so on (DreamFusion section 3.2; threestudio's template)."""
VIEWS = ('front view', 'side view', 'back view', 'overhead view')      # the order of cameras.view_bin


def view_prompts(prompt: str) -> list[str]:
  """The four prompts of one object, in the order of cameras.view_bin."""
  return [f'{prompt}, {view}' for view in VIEWS]
