"""Every option, declared once: groups, precedence, selection, environment, form."""
