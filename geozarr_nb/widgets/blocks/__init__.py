"""Building blocks of the widgets: panels, pages, and work in the background."""
